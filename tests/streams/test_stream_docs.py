"""What docs/streams.md shows works as it stands there: the engine here, the others in processes of their own."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from stream_tools import need, wait_for

TEXT = (Path(__file__).parents[2] / "docs" / "streams.md").read_text()
ENGINE, *SUBSCRIBERS, SENDER = re.findall(r"^```python\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)


def on_free_ports(*snippets: str) -> list[str]:
    """The snippets with ports that nobody has."""
    free = {}
    for port in set(re.findall(r"(?<=port=)\d{4}", snippets[0])):
        with socket.create_server(("127.0.0.1", 0)) as taken:
            free[port] = str(taken.getsockname()[1])
    return [re.sub("|".join(free), lambda found: free[found[0]], snippet) for snippet in snippets]


def test_the_page_shows_four_subscribers_of_ten_lines() -> None:
    assert len(SUBSCRIBERS) == 4
    assert all(len([line for line in snippet.splitlines() if line]) <= 11 for snippet in SUBSCRIBERS)


def test_what_the_page_shows() -> None:
    need("zmq", "msgpack", "websockets", "feagi_rust_py_libs")
    engine_text, sender, *subscribers = on_free_ports(ENGINE, SENDER, *SUBSCRIBERS)
    names: dict[str, Any] = {}
    exec(compile(engine_text, "docs/streams.md", "exec"), names)
    engine = names["engine"]
    try:
        for snippet in subscribers:
            with subprocess.Popen([sys.executable, "-u", "-c", snippet], stdout=subprocess.PIPE, text=True) as process:
                assert process.stdout is not None
                numbers = _bursts(process.stdout, 5)
                assert numbers == list(range(numbers[0], numbers[0] + 5))
                process.kill()
        subprocess.run([sys.executable, "-c", sender], check=True, timeout=60)
        wait_for(lambda: sum(one["frames"] for one in engine.status().sources.values()) == 2)
        assert all(one["refused_malformed"] == one["refused_unknown"] == 0 for one in engine.status().sources.values())
    finally:
        engine.stop()
        names["npu"].close()


def _bursts(lines: Any, count: int) -> list[int]:
    """Numbers of bursts from printed arrays, which may go over several lines."""
    found: list[int] = []
    while len(found) < count:
        line = lines.readline()
        assert line
        if re.match(r"\d", line):
            found.append(int(line.split()[0]))
    return found


def test_the_figures_of_the_limits_are_those_of_the_code() -> None:
    from gpu_npu.streams import listener, zeromq

    limits = listener.ListeningSink.__init__.__kwdefaults__ or {}
    assert f"`queue_frames` {limits['queue_frames']:,}, `queue_bytes` {limits['queue_bytes'] >> 20} MiB" in TEXT
    taken = listener.ListeningSource.__init__.__kwdefaults__ or {}
    assert f"`most_bytes` ({taken['most_bytes'] >> 20} MiB)" in TEXT
    assert f"{taken['queue_frames']:,} stimuli, or {listener.MOST_WAITING:,} potentials" in TEXT
    assert limits["connections"] == taken["connections"] and f"{limits['connections']} connections are open" in TEXT
    assert f"within {listener.PATIENCE:g} s" in TEXT and f"{zeromq.TOPICS} subscriptions" in TEXT
