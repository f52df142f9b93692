"""Debian's chromium without a window, driven through a pipe: no port, no network, no further library."""

import base64
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

Event = dict[str, Any]


class Browser:
    """One page of a browser; commands and events are those of the DevTools protocol."""

    def __init__(self, process: "subprocess.Popen[bytes]", to_it: int, from_it: int) -> None:
        self.events: list[Event] = []
        """All that was told so far, in order: network requests, console messages, exceptions, violations."""
        self._process, self._to_it, self._from_it = process, to_it, from_it
        self._rest, self._sent, self._session = b"", 0, ""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network", "Audits"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """A command's result; events that come before it are kept."""
        self._sent += 1
        number = self._sent
        message: dict[str, Any] = {"id": number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to_it, json.dumps(message).encode() + b"\0")
        answer = self._wait(lambda told: told.get("id") == number)
        assert "error" not in answer, f"{method}: {answer['error']}"
        result: dict[str, Any] = answer["result"]
        return result

    def open(self, page: Path, width: int, height: int = 900, *, dark: bool = False) -> None:
        """Load a file at a window's size, and wait until nothing is missing."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.events.clear()
        self.call("Page.navigate", url=page.resolve().as_uri())
        if not any(event["method"] == "Page.loadEventFired" for event in self.events):
            self._wait(lambda told: told.get("method") == "Page.loadEventFired")

    def value(self, expression: str) -> Any:
        """What an expression comes to on the page."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def screenshot(self, path: Path) -> None:
        """The whole page as a PNG."""
        data = self.call("Page.captureScreenshot", captureBeyondViewport=True)["data"]
        path.write_bytes(base64.b64decode(data))

    def _wait(self, wanted: Callable[[Event], bool]) -> Event:
        deadline = time.monotonic() + 60
        while True:
            assert time.monotonic() < deadline, "the browser does not answer"
            while b"\0" not in self._rest:
                part = os.read(self._from_it, 1 << 20)
                assert part, f"the browser ended with status {self._process.wait()}"
                self._rest += part
            text, _, self._rest = self._rest.partition(b"\0")
            told: Event = json.loads(text)
            if "method" in told:
                self.events.append(told)
            if wanted(told):
                return told


@contextmanager
def browser(profile: Path) -> Iterator[Browser]:
    """Start one, with a profile of its own, and end it."""
    program = shutil.which("chromium")
    assert program
    command_end, to_it = os.pipe()
    from_it, answer_end = os.pipe()
    flags = (
        "--headless --no-sandbox --disable-gpu --disable-dev-shm-usage --no-first-run --disable-background-networking"
    )
    # The browser reads commands from descriptor 3 and answers on 4, whatever numbers ours have.
    script = f'exec "$0" {flags} --remote-debugging-pipe "$@" 3<&{command_end} 4>&{answer_end}'
    process = subprocess.Popen(
        ["bash", "-c", script, program, f"--user-data-dir={profile}", "about:blank"],
        pass_fds=(command_end, answer_end),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(command_end)
    os.close(answer_end)
    try:
        yield Browser(process, to_it, from_it)
    finally:
        process.kill()
        process.wait()
        os.close(to_it)
        os.close(from_it)
