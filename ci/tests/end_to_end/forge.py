"""A client of the echo service, beside it somebody who forges resets with its address.

forge.py VIP PORT COUNT: opens a connection, echoes while COUNT resets with numbers all over the
number space pass, then sends the one with the right number and finds the connection gone. Prints
the client's port at the end.
"""

import socket
import struct
import sys

vip, port, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])

# Everything on the wire, to know the client's next number.
wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
wire.bind(("eth0", 0))
forger = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
client = socket.create_connection((vip, port), timeout=5)
client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
own, own_port = client.getsockname()


def echo(data):
    client.sendall(data)
    back = b""
    while len(back) < len(data):
        more = client.recv(len(data) - len(back))
        assert more, "the connection was closed"
        back += more
    assert back == data


def next_number(mark):
    """The number after `mark`, which is sent now and found on the wire."""
    wire.setblocking(False)
    try:
        while wire.recv(65535):
            pass
    except BlockingIOError:
        wire.settimeout(5)
    echo(mark)
    while True:
        frame = wire.recv(65535)
        at = frame.find(mark)
        ports = struct.unpack("!HH", frame[34:38]) if len(frame) > 54 else None
        if at > 0 and ports == (own_port, port):
            return (struct.unpack("!I", frame[38:42])[0] + len(mark)) % 2**32


def checksum(data):
    total = sum(struct.unpack("!%dH" % (len(data) // 2), data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def reset(number):
    ends = socket.inet_aton(own) + socket.inet_aton(vip)
    def segment(sum):
        return struct.pack("!HHIIBBHHH", own_port, port, number, 0, 5 << 4, 4, 0, sum, 0)
    pseudo = ends + struct.pack("!BBH", 0, 6, 20)
    # The kernel fills in length, identification and checksum of the IP header.
    header = struct.pack("!BBHHHBBH", 0x45, 0, 40, 0, 0, 64, 6, 0) + ends
    forger.sendto(header + segment(checksum(pseudo + segment(0))), (vip, 0))


right = next_number(b"where is it?")
step = 2**32 // count
for n in range(count):
    # Half a step beside the right number at the nearest.
    reset((right + n * step + step // 2) % 2**32)
    if n % 100 == 0:
        echo(b"%d bytes and more" % n)
echo(b"still there")
print("survived", flush=True)

right = next_number(b"and now?")
reset(right)
try:
    # The server has closed, and says so to whoever still sends.
    for _ in range(20):
        client.sendall(b"anybody?")
        client.settimeout(1)
        client.recv(100)
except ConnectionResetError:
    print(own_port)
    sys.exit(0)
sys.exit("the right reset did not close the connection")
