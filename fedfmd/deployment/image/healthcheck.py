"""Exit 0 when a health address answers: ``healthcheck.py URL [CA_FILE]``."""

import ssl
import sys
import urllib.request

url, *authority = sys.argv[1:]
context = ssl.create_default_context(cafile=authority[0]) if authority else None
with urllib.request.urlopen(url, timeout=8, context=context) as answer:
    sys.exit(answer.status != 200)
