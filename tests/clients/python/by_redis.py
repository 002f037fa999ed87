"""redis, PyPI's client of Redis."""

import redis

from arrival import begin, end

host, port, _ = begin()
client = redis.Redis(host=host, port=port, decode_responses=True)
information = client.client_info()
end(information["laddr"].rsplit(":", 1)[0])
