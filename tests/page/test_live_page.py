"""The page of a run that goes on: for this machine alone, always as the disk stands, and the run stays as it is."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import pytest
from filelock import FileLock
from page_fronts import front_record, on_disk
from test_page_file import HOSTILE, hostile_record

from pareto_align.cli import main
from pareto_align.errors import ConfigError
from pareto_align.front import write_front
from pareto_align.front.storage import FrontRecord
from pareto_align.printable import printable
from pareto_align.report.page.live import LivePage, LiveRun

sys.path.insert(0, str(Path(__file__).parents[1]))  # what the tests of runs fit

RECORD = (Path(__file__).parents[1] / "fixtures" / "front-v1" / "run.json").read_text()


def write(run: Path, made: FrontRecord, step: int, *events: dict) -> None:
    """What a run leaves on disk when it has measured its front at a step."""
    run.mkdir(exist_ok=True)
    (run / "run.json").write_text(RECORD)
    write_front(run / "front", replace(made, cost={"steps": step}, split="select"), _adapter)
    append(run, {"event": "step", "step": step, "time": 10.0 * step}, evaluation(step, len(made.members)), *events)


def append(run: Path, *events: dict) -> None:
    with (run / "journal.jsonl").open("a") as journal:
        journal.write("".join(json.dumps(event) + "\n" for event in events))


def evaluation(step: int, members: int) -> dict:
    ends = {"hypervolume_low": 0.1 * step - 0.05, "hypervolume_high": 0.1 * step + 0.05}
    return {
        "event": "evaluation",
        "step": step,
        "time": 10.0 * step,
        "hypervolume": 0.1 * step,
        "members": members,
        **ends,
    }


def _adapter(name: str, folder: Path) -> None:
    (folder / "adapter_config.json").write_text("{}")
    (folder / "adapter_model.safetensors").write_bytes(bytes(16))


@pytest.fixture
def serve():
    """Serve the page of a folder; the server."""
    servers: list[LivePage] = []

    def served(folder: Path, every: float = 0.1) -> LivePage:
        servers.append(LivePage(LiveRun(folder, every)))
        threading.Thread(target=servers[-1].serve_forever, args=(0.02,), daemon=True).start()
        return servers[-1]

    yield served
    for server in servers:
        server.shutdown()
        server.server_close()


def ask(
    server: LivePage, path: str, *, host: str = "", method: str = "GET"
) -> tuple[int, str, http.client.HTTPMessage]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=30)
    try:
        connection.request(method, path, headers={"Host": host or f"127.0.0.1:{server.server_port}"})
        reply = connection.getresponse()
        return reply.status, reply.read().decode(), reply.headers
    finally:
        connection.close()


# ------------------------------------------------------------------------------------------------ for whom it is


def test_it_answers_this_machine_under_its_own_path_and_nobody_else(serve, tmp_path):
    write(tmp_path / "run", front_record(4, 2), 3)
    server = serve(tmp_path / "run")
    page, state = f"/{server.token}/", f"/{server.token}/state.json"
    assert server.server_address[0] == "127.0.0.1"
    assert len(server.token) >= 32
    for host in ("", "localhost", "localhost:9000", "127.0.0.1"):  # a forwarded port is another one
        assert ask(server, page, host=host)[0] == ask(server, state, host=host)[0] == 200
    for host in (
        "evil.example",
        "evil.example:80",
        "127.0.0.1.evil.example",
        "0.0.0.0",
        "192.168.1.7",
        "localhost.evil",
    ):
        assert ask(server, page, host=host)[0] == ask(server, state, host=host)[0] == 403
    for path in ("/", "/state.json", f"/{server.token[:-1]}/", f"/{server.token}x/", "/%00/"):
        assert ask(server, path)[0] == 404, path
    for path in (f"{page}../run.json", f"{page}run.json", f"/{server.token}"):
        assert ask(server, path)[0] in (200, 404)
        assert "schema_version" not in ask(server, path)[1]
    for method in ("POST", "PUT", "DELETE", "OPTIONS"):
        assert ask(server, state, method=method)[0] == 501
    assert ask(server, state)[2]["Cache-Control"] == "no-store"
    assert serve(tmp_path / "run").token != server.token


def test_its_policy_lets_in_its_own_script_and_asks_its_own_server_alone(serve, tmp_path):
    server = serve(tmp_path / "none")
    status, page, headers = ask(server, f"/{server.token}/")
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)
    assert status == 200
    assert [part.split()[0] for part in policy.split("; ")] == [
        "default-src", "script-src", "style-src", "connect-src", "img-src", "base-uri", "form-action",
    ]  # fmt: skip
    assert "connect-src 'self'" in policy
    assert "unsafe" not in policy
    assert headers["Content-Security-Policy"] == "frame-ancestors 'none'"
    source = (files("pareto_align.report.page") / "live.js").read_text()
    assert re.findall(r"fetch\(`([^`]*)`", source) == ["state.json?have=${version}"]
    assert re.findall(r"innerHTML|outerHTML|insertAdjacent|document\.write|\beval\b|Function\(|https?://", source) == []


def test_a_port_that_is_taken_and_options_that_do_not_go_together_are_said(serve, tmp_path, capsys):
    server = serve(tmp_path / "none")
    with pytest.raises(ConfigError, match=rf"cannot be served on port {server.server_port}: .*in use"):
        LivePage(LiveRun(tmp_path), server.server_port)
    (tmp_path / "empty").mkdir()
    for words, said in {
        ("--page",): "holds no run",
        ("--page", "--once"): "give one of them",
        ("--port", "8000"): "give --page as well",
        ("--page", "--port", "0"): "is not a port from 1 to 65535",
    }.items():
        try:
            code: object = main(["watch", str(tmp_path / "empty"), *words])
        except SystemExit as error:
            code = error.code
        assert (code, said in capsys.readouterr().err) == (2, True), words


# ------------------------------------------------------------------------------------------------ what it is told


def test_it_is_told_what_the_disk_says_and_the_front_only_when_it_is_new(tmp_path):
    run = tmp_path / "run"
    live = LiveRun(run)
    assert live.told("")["state"] == "waiting"
    run.mkdir()
    assert (live.told("")["state"], live.told("")["line"]) == (
        "damaged",
        f"{run} holds no run: there is no run.json in it.",
    )
    with FileLock(run / ".lock"):
        assert (live.told("")["state"], live.told("")["front"]) == ("starting", None)
        write(run, front_record(3, 2), 2)
        told = live.told("")
        assert told["state"] == "running"
        assert told["line"].startswith("step 2 of 6, ")
        assert [member["id"] for member in told["front"]["members"]] == ["m0000", "m0007", "m0014"]
        assert told["measured"] == "Measured at step 2 on select prompts."
        assert live.told(told["version"])["front"] is None
        append(run, {"event": "step", "step": 3, "time": 30.0})
        assert live.told(told["version"])["front"] is None  # a step is no measurement
        assert live.told("")["line"].startswith("step 3 of 6, ")
    assert live.told("")["state"] == "killed"
    assert f"`pareto-align resume {run}` goes on" in live.told("")["line"]
    with FileLock(run / ".lock"):  # resumed
        write(run, front_record(4, 2), 4)
        again = live.told(told["version"])
        assert (again["state"], len(again["front"]["members"])) == ("running", 4)
        assert again["front"]["history"]["steps"] == [2, 4]
    append(run, {"event": "end", "step": 6})
    assert live.told(again["version"])["state"] == "ended"
    (run / "front" / "front.json").write_text("{")
    assert any("front.json" in note for note in live.told("")["notes"])


def test_one_that_was_served_from_the_command_line_ends_on_ctrl_c_and_leaves_the_run_alone(tmp_path):
    write(tmp_path / "run", front_record(3, 2), 2)
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    code = "import sys; from pareto_align.cli import main; sys.exit(main())"
    watcher = subprocess.Popen(
        [sys.executable, "-c", code, "watch", str(tmp_path / "run"), "--page", "--json"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert watcher.stdout is not None
        address = json.loads(watcher.stdout.readline())["page"]
        host, path = re.fullmatch(r"http://(127\.0\.0\.1:\d+)(/.*)", address).groups()  # type: ignore[union-attr]
        connection = http.client.HTTPConnection(host, timeout=30)
        connection.request("GET", f"{path}state.json")
        assert json.loads(connection.getresponse().read())["state"] == "killed"
        os.kill(watcher.pid, signal.SIGINT)
        assert watcher.wait(timeout=30) == 130
        assert watcher.stderr is not None
        assert watcher.stderr.read() == "interrupted\n"
    finally:
        watcher.kill()
        watcher.communicate()
    assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()} == before


# ------------------------------------------------------------------------------------------------ in a browser


@pytest.fixture
def follow(browser, serve):
    """Open the live page of a folder."""
    contexts = []

    def followed(folder: Path, address: str = "", **how):
        server = serve(folder)
        contexts.append(browser.new_context(viewport={"width": 1400, "height": 1000}, **how))
        page = contexts[-1].new_page()
        page.problems, page.asked = [], []
        page.on("console", lambda message: page.problems.append(message.text))
        page.on("pageerror", lambda error: page.problems.append(str(error)))
        page.on("request", lambda request: page.asked.append(request.url))
        page.goto(server.address + address)
        page.server = server
        return page

    yield followed
    for context in contexts:
        context.close()


def wait(page, state: str, version: str = "") -> str:
    other = f":not([data-version='{version}'])" if version else ""
    page.wait_for_selector(f"html[data-state={state}][data-version]{other}", state="attached")
    return str(page.get_attribute("html", "data-version"))


def test_a_run_is_followed_in_a_browser_and_what_was_asked_for_stays(follow, tmp_path):
    """From before it begins, through a measurement, a kill and what comes after it, to its end."""
    run, made = tmp_path / "run", front_record(9, 2, constraint=True)
    page = follow(run)
    page.wait_for_selector("html[data-state=waiting]", state="attached")
    assert page.is_hidden("main")
    run.mkdir()
    with FileLock(run / ".lock"):
        page.wait_for_selector("html[data-state=starting]", state="attached")
        write(run, replace(made, members=[], fallen=[]), 0)
        (run / "journal.jsonl").write_text(json.dumps({"event": "start", "time": 0.0}) + "\n")
        page.wait_for_selector("#history-text:text-is('The run has measured none of its policies yet.')")
        none = wait(page, "running")
        assert "no policy measured yet" in page.inner_text("#live")
        write(run, replace(made, members=made.members[:6]), 2)
        first = wait(page, "running", none)
        page.wait_for_selector("html[data-ready]", state="attached")
        page.fill("#weight-0", "80")
        page.fill("#exact-2", "0.39")
        page.click("[data-key=row-4]")
        page.focus("#weight-0")
        asked, pinned = page.url, made.members[4].id
        assert "pin=4" in asked
        write(
            run,
            replace(made, members=made.members[1:8]),
            4,
            {"event": "stalled", "policy": 1, "step": 4, "action": "left"},
        )
        second = wait(page, "running", first)
    page.wait_for_selector("html[data-state=killed]", state="attached")
    said = page.inner_text("header [role=status]")
    assert said.startswith("Measured at step 4 on select prompts. New: m0042, m0049. m0000 is no member any more.")
    assert page.input_value("#weight-0") == "80"
    assert page.input_value("#exact-2") == "0.39"
    assert page.evaluate("() => document.activeElement.id") == "weight-0"
    assert page.get_attribute("[data-key=row-3]", "aria-pressed") == "true"
    assert pinned in page.inner_text("[data-key=row-3]")
    tagged = [row.inner_text() for row in page.query_selector_all("#table tr:has(.tag:text-is('new')) td button")]
    assert tagged == ["m0042", "m0049"]
    assert "`pareto-align resume" in page.inner_text("#live")
    page.click("header details summary")
    assert "policy 1 stalled at step 4: left" in page.inner_text("header details")
    with FileLock(run / ".lock"):
        write(run, made, 6, {"event": "end", "step": 6})
        wait(page, "ended", second)
    page.wait_for_timeout(250)
    front = on_disk(replace(made, cost={"steps": 6}, split="select"), tmp_path / "whole")
    choice = front.select([80, 50], at_most={"harm": 0.39})
    assert page.inner_text("#chosen") == choice.member.id
    assert page.problems == []
    assert all(url.startswith(page.server.address) for url in page.asked)
    page.server.shutdown()
    page.server.server_close()
    page.wait_for_selector("html[data-state=lost]", state="attached")
    assert page.inner_text("#chosen") == choice.member.id


def test_axe_finds_nothing_in_what_it_adds_light_or_dark_nor_does_it_scroll_sideways(follow, axe, tmp_path):
    run = tmp_path / "run"
    write(run, front_record(6, 2), 2, {"event": "stalled", "policy": 1, "step": 2, "action": "left"})
    page = follow(run, bypass_csp=True)
    first = wait(page, "killed")
    page.wait_for_selector("html[data-ready]", state="attached")
    write(run, front_record(7, 2), 4)
    wait(page, "killed", first)
    page.evaluate(axe)
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        found = page.evaluate("() => axe.run('header')")
        assert [(v["id"], [n["html"][:120] for n in v["nodes"]]) for v in found["violations"]] == []
        assert len(found["passes"]) > 5
    page.set_viewport_size({"width": 360, "height": 700})
    page.wait_for_timeout(150)
    assert page.evaluate("() => document.documentElement.scrollWidth") <= 360


def test_answers_are_there_from_the_first_measurement_on(tmp_path):
    from aligner_runs import fit

    run, pages = tmp_path / "run", []

    def look(event):
        if event["event"] == "evaluation":
            pages.append(LiveRun(run).told("")["front"])

    fit(run, callbacks=[look])
    assert len(pages) == 2
    for content in pages:
        assert "the run has not ended" in content["subtitle"]
        assert content["prompts"]
        for owner in (content["untrained"], *content["members"]):
            assert owner["answers"].keys() == {*map(str, range(len(content["prompts"])))}


def test_answers_of_others_are_text_on_the_live_page_and_change_with_every_measurement(follow, tmp_path):
    run, made = tmp_path / "run", hostile_record()
    plain = [replace(m, sample=[{**row, "completion": "mild"} for row in m.sample]) for m in made.members]
    write(run, replace(made, members=plain), 2)
    page = follow(run, "#everyone=1")
    first = wait(page, "killed")
    page.wait_for_selector("html[data-ready]", state="attached")
    said = "() => [...document.querySelectorAll('#samples article .text')].map(p => p.textContent)"
    assert page.evaluate(said)[1:] == ["mild"] * len(HOSTILE)
    before = page.evaluate("() => document.querySelectorAll('img, iframe, a, b').length")
    title = page.title()
    write(run, made, 4)
    wait(page, "killed", first)
    assert sorted(page.evaluate(said)[1:]) == sorted(printable(text) for text in HOSTILE)
    assert page.evaluate("() => document.querySelectorAll('img, iframe, a, b').length") == before
    assert (page.title(), page.problems) == (title, [])
    assert all(url.startswith(page.server.address) for url in page.asked)


# ------------------------------------------------------------------------------------------------ what it changes


def test_a_run_whose_page_is_asked_all_the_time_writes_what_it_writes_unwatched(serve, tmp_path):
    from aligner_runs import fit

    fit(tmp_path / "alone")
    servers, versions, done = [serve(tmp_path / "watched") for _ in range(2)], set(), threading.Event()

    def look(server: LivePage) -> None:
        version = ""
        while not done.wait(0.02):
            told = json.loads(ask(server, f"/{server.token}/state.json?have={version}")[1])
            version = told["version"] or version
            versions.add((told["state"], version))

    lookers = [threading.Thread(target=look, args=(server,)) for server in servers]
    for looker in lookers:
        looker.start()
    try:
        fit(tmp_path / "watched")
    finally:
        done.set()
        for looker in lookers:
            looker.join()
    assert len({version for state, version in versions if state == "running" and version}) >= 2
    assert files_of(tmp_path / "watched") == files_of(tmp_path / "alone")


def files_of(run: Path) -> dict[str, bytes | list[dict]]:
    """All that a run wrote, but the lock and the journal's clock."""
    found: dict[str, bytes | list[dict]] = {}
    for path in sorted(run.rglob("*")):
        if path.is_file() and path.name != ".lock":
            found[str(path.relative_to(run))] = path.read_bytes()
    lines = [json.loads(line) for line in found["journal.jsonl"].splitlines()]
    clock = re.compile("time|seconds|crc")
    found["journal.jsonl"] = [{key: value for key, value in line.items() if not clock.search(key)} for line in lines]
    return found
