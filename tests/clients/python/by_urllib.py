"""urllib.request."""

import urllib.request

from arrival import begin, end

_, _, authority = begin()
direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
with direct.open(f"http://{authority}/") as answer:
    end(answer.read().decode())
