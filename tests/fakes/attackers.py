"""Somebody who wants the site for themselves, as a process of its own: `python -m tests.fakes.attackers`.

It reads what to do as JSON from stdin: `port`, `sessions` (cookies of hostile members), `sockets` of each,
`commands_a_second` of all together, `log_ins` at once. It attacks until stdin ends, and then prints a `Report`.
"""

import asyncio
import json
import struct
import sys
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from uuid import uuid4

from bench.websocket import Opcode, encode_frame, new_key
from testbed.many_connections import allow_many_sockets, new_fast_loop

REFUSED = json.dumps({"type": "turn.start", "turn_id": str(uuid4()), "conversation_id": str(uuid4()), "text": ""})
FRAME = encode_frame(Opcode.TEXT, REFUSED.encode())
NETWORK = "127.0.0.9"
"""Where they come from: another network than the members of the tests."""
LOST = (OSError, asyncio.IncompleteReadError, EOFError)


@dataclass
class Report:
    """What came of it."""

    handshakes: dict[str, int] = field(default_factory=dict)  # by status
    commands: int = 0  # sent
    refusals: int = 0  # of commands
    log_ins: dict[str, int] = field(default_factory=dict)  # by status


class Attack:
    def __init__(self, port: int, sessions: list[str], sockets: int, commands_a_second: float, log_ins: int) -> None:
        self.port, self.sessions, self.sockets, self.log_ins = port, sessions, sockets, log_ins
        self.pause_seconds = len(sessions) * sockets / commands_a_second
        self.report = Report()

    async def run(self) -> None:
        doing = [self.loop_on_socket(session) for session in self.sessions for _ in range(self.sockets)]
        doing += [self.log_in_again_and_again(number) for number in range(self.log_ins)]
        tasks = [asyncio.create_task(one) for one in doing]
        await asyncio.to_thread(sys.stdin.read)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)

    async def loop_on_socket(self, session: str) -> None:
        """Send a command that is refused, for ever; come back whenever the door is closed."""
        while True:
            with suppress(*LOST):
                await self.attack_by_socket(session)
            await asyncio.sleep(1)

    async def attack_by_socket(self, session: str) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, local_addr=(NETWORK, 0))
        try:
            writer.write(self.handshake(session))
            status = (await reader.readuntil(b"\r\n\r\n")).split()[1].decode()
            count(self.report.handshakes, status)
            if status == "101":
                counting = asyncio.create_task(self.count_refusals(reader, writer))
                try:
                    while not counting.done():
                        writer.write(FRAME)
                        self.report.commands += 1
                        await asyncio.wait([counting], timeout=self.pause_seconds)
                finally:
                    counting.cancel()
        finally:
            writer.transport.abort()

    async def count_refusals(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Count them until the server hangs up; answer its pings, as whoever wants to stay does."""
        with suppress(*LOST):
            while True:
                first, size = await reader.readexactly(2)
                if size == 126:
                    (size,) = struct.unpack("!H", await reader.readexactly(2))
                payload = await reader.readexactly(size)
                if first & 0x0F == Opcode.PING:
                    writer.write(encode_frame(Opcode.PONG, payload))
                self.report.refusals += first == 0x81 and b"text_empty" in payload

    def handshake(self, session: str) -> bytes:
        host = f"127.0.0.1:{self.port}"
        fields = {
            "Host": host,
            "Origin": f"http://{host}",
            "Cookie": f"sessionid={session}",
            "Sec-WebSocket-Key": new_key(),
            "Connection": "Upgrade",
            "Upgrade": "websocket",
            "Sec-WebSocket-Version": "13",
        }
        lines = ["GET /ws/ HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items()), "\r\n"]
        return "\r\n".join(lines).encode()

    async def log_in_again_and_again(self, number: int) -> None:
        while True:
            with suppress(*LOST):
                await self.log_in(f"{number}-{uuid4()}@example.com")
            await asyncio.sleep(1)

    async def log_in(self, email: str) -> None:
        body = json.dumps({"email": email, "password": "una clave larga"})
        lines = ["POST /api/v1/auth/login HTTP/1.1", f"Host: 127.0.0.1:{self.port}"]
        lines += ["Content-Type: application/json", f"Content-Length: {len(body)}", "Connection: close", "", body]
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, local_addr=(NETWORK, 0))
        try:
            writer.write("\r\n".join(lines).encode())
            answer = await reader.read()
            count(self.report.log_ins, answer.split(maxsplit=2)[1].decode() if answer else "none")
        finally:
            writer.close()


def count(counts: dict[str, int], status: str) -> None:
    counts[status] = counts.get(status, 0) + 1


async def main() -> None:
    attack = Attack(**json.loads(sys.stdin.readline()))
    await attack.run()
    print(json.dumps(asdict(attack.report)))


if __name__ == "__main__":
    allow_many_sockets()
    with asyncio.Runner(loop_factory=new_fast_loop) as runner:
        runner.run(main())
