"""Sends a UDP datagram in fragments, the last one first, and waits for its echo.

usage: fragments.py SOURCE DESTINATION PORT
"""

import socket
import struct
import sys

PIECE = 1448


def checksum(data):
    data += bytes(len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF or 0xFFFF


def main():
    source, destination, port = sys.argv[1], sys.argv[2], int(sys.argv[3])
    v6 = ":" in source
    family = socket.AF_INET6 if v6 else socket.AF_INET
    src, dst = (socket.inet_pton(family, a) for a in (source, destination))
    echo = socket.socket(family, socket.SOCK_DGRAM)
    echo.bind((source, 0))
    echo.settimeout(5)
    raw = socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_RAW)

    for number in range(8):
        data = bytes((number + n // 7) % 256 for n in range(4000))
        length = 8 + len(data)
        ports = struct.pack("!HH", echo.getsockname()[1], port)
        pseudo = src + dst + struct.pack("!LHBB", length, 0, 0, socket.IPPROTO_UDP)
        sum_ = checksum(pseudo + ports + struct.pack("!HH", length, 0) + data)
        datagram = ports + struct.pack("!HH", length, sum_) + data
        for offset in reversed(range(0, length, PIECE)):
            piece = datagram[offset : offset + PIECE]
            more = offset + PIECE < length
            if v6:
                header = struct.pack("!LHBB", 6 << 28, 8 + len(piece), 44, 64) + src + dst
                header += struct.pack("!BBHL", 17, 0, offset | more, 1000 + number)
            else:
                fragment = offset // 8 | more << 13
                header = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(piece), 1000 + number,
                                     fragment, 64, 17, 0) + src + dst
            raw.sendto(header + piece, (destination, 0))
        answer, sender = echo.recvfrom(65536)
        assert answer == data and sender[0] == destination, (number, len(answer), sender)
    print("8 datagrams")


main()
