"""requests, by HTTPS."""

import sys

import requests

from arrival import begin, end

_, _, authority = begin()
session = requests.Session()
session.trust_env = False
answer = session.get(f"https://{authority}/", verify=sys.argv[3])
answer.raise_for_status()
end(answer.text)
