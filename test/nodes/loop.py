"""Asks who it is, again and again, until it is told to end. Each time it makes a session anew, and so asks for credentials anew.
It writes a line each time: how long it took, and the identity or the error."""

import signal
import sys
import time

import boto3

ended = []
signal.signal(signal.SIGTERM, lambda *_: ended.append(True))
while not ended:
    begun = time.monotonic()
    try:
        said = "is " + boto3.session.Session().client("sts").get_caller_identity()["Arn"]
    except Exception as e:  # whatever a client would see
        said = "error " + repr(e)
    print(round((time.monotonic() - begun) * 1000), said, flush=True)
    time.sleep(0.05)
print(0, "end", flush=True)
