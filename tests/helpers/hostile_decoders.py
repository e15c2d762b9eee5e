"""A decoder that crashes, hangs or lies where its image says so, for everything that decodes foreign files."""

import sys

# The real child, whose decoder meets its end where the data says so. ONCE is followed by a path that marks the first time.
# CRASH and HANG also work at the end of an image, whose decoding elsewhere they do not disturb.
HOSTILE = """
import os, signal, sys, time
from tasks.scoring import decoder_process
decode, answer = decoder_process.decode, decoder_process.answer
def hostile(data, limits):
    if data.startswith(b"CRASH") or data.endswith(b"CRASH"): os.kill(os.getpid(), signal.SIGSEGV)
    if data.startswith(b"EXIT"): os._exit(3)
    if data.startswith(b"RAISE"): raise LookupError("a slip in the code")
    if data.startswith(b"HANG") or data.endswith(b"HANG"): time.sleep(1000)
    if data.startswith(b"GARBAGE"): decoder_process.frame = lambda header, size: b"\\xff" * 100
    if data.startswith(b"ENORMOUS"):
        decoder_process.frame = lambda header, size: decoder_process.LENGTHS.pack(2, 1 << 40) + b"{}"
    if data.startswith(b"ONCE"):
        path = data[4:].decode()
        if not os.path.exists(path):
            open(path, "x").close()
            time.sleep(1000)
        print("chatter on stdout")
        data = open(path + ".jpg", "rb").read()
    return decode(data, limits)
def lying(header, data):
    if data.startswith(b"LIE"): return {"facts": ["PNG", 1, 1, None, 0], "shape": [99, 3, 8, 8]}, None
    if data.startswith(b"SHAPE"):
        facts = {"format": "PNG", "width": 1, "height": 1, "jpeg_quality": None, "border_px": 0}
        return {"facts": facts, "shape": [9, 9, 3]}, None
    if data.startswith(b"NAKED"): return {"facts": None, "shape": [9, 9, 3]}, None
    if data.startswith(b"REASON"): return {"facts": None, "reason": "no such reason", "detail": ""}, None
    return answer(header, data)
decoder_process.decode, decoder_process.answer = hostile, lying
decoder_process.main()
"""
ARGV = (sys.executable, "-P", "-c", HOSTILE)
