"""Takes each check of tests/removed-checks.toml away, and sees the tests that it stands for fail.

Works on a copy of the tree. All removals are built at once: in the copy, each check is there or not by
the environment variable LIANXI_REMOVED_CHECK, which names one. So one build does for all of them, and
what fails is due to one removal alone. A removal that does not compile is told apart, and the others go
on without it. Before that every named test has to pass with all checks in place.

What was tried is kept beside the copy: a run that was stopped goes on, as long as no source changed.

Exit codes: 0 every test failed as it has to; 1 one did not; 2 the table or the build is wrong.
"""

import argparse
import concurrent.futures
import hashlib
import json
import os
import re
import subprocess
import sys
import time
import tomllib
from pathlib import Path

TREE = Path(__file__).resolve().parents[2]
TABLE = "tests/removed-checks.toml"
SWITCH = "LIANXI_REMOVED_CHECK"
BASELINE = "(all checks in place)"
LIMIT_S = 300
# What a good outcome is, for a removal and for the run before it.
CAUGHT = {"failed", "hung"}


class Wrong(Exception):
    """The table or the tree is not what it has to be."""


def digest(*parts):
    found = hashlib.sha256()
    for part in parts:
        found.update(len(part).to_bytes(8, "big"))
        found.update(part)
    return found.hexdigest()


def sources(tree):
    """Files of the tree that git knows or would add, as bytes by path."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=tree, check=True, capture_output=True,
    ).stdout.decode()
    paths = sorted(path for path in listed.split("\0") if path)
    return {path: (tree / path).read_bytes() for path in paths if (tree / path).is_file()}


def switched(names, edit):
    """The text of a check that is there unless the switch has one of the names."""
    is_named = " || ".join(f'name == "{name}"' for name in names)
    is_removed = f'(::std::env::var_os("{SWITCH}").is_some_and(|name| {is_named}))'
    if "switched" in edit:
        return edit["switched"].replace("REMOVED", is_removed)
    text, without = edit["text"], edit["without"]
    if without == "":
        return f"if !{is_removed} {{ {text} }}"
    return f"(if {is_removed} {{ {without} }} else {{ {text} }})"


def with_switches(files, removals):
    """The files with every removal built in, and where each one is: (path, first line, last, name)."""
    changed, places = dict(files), []
    edits = {}
    for removal in removals:
        for edit in removal["edits"]:
            # Removals may share an edit: it is there for each of them.
            key = json.dumps(edit, sort_keys=True)
            edits.setdefault(edit["file"], {}).setdefault(key, []).append(removal["name"])
    for path, of_file in edits.items():
        if path not in files:
            raise Wrong(f"{path} is not in the tree")
        text = files[path].decode()
        found = []
        for key, names in of_file.items():
            edit = json.loads(key)
            times = text.count(edit["text"])
            if times != 1:
                raise Wrong(f"{names}: the text is {times} times in {path}:\n{edit['text']}")
            found.append((text.index(edit["text"]), names, edit))
        found.sort(key=lambda one: one[0])
        # From the end, so that positions before stay good.
        last = len(text)
        for start, names, edit in reversed(found):
            end = start + len(edit["text"])
            if end > last:
                raise Wrong(f"{names}: the text overlaps that of another removal in {path}")
            text = text[:start] + switched(names, edit) + text[end:]
            last = start
        for start, names, edit in found:
            new = switched(names, edit)
            line = text.count("\n", 0, text.index(new)) + 1
            places += [(path, line, line + new.count("\n"), name) for name in names]
        changed[path] = text.encode()
    return changed, places


def put(files, copy):
    """Writes what differs, so that cargo builds no more than it must; removes what is left over."""
    copy.mkdir(parents=True, exist_ok=True)
    kept = copy / ".removed-checks"
    before = set(json.loads(kept.read_text())) if kept.exists() else set()
    if not kept.exists() and any(copy.iterdir()):
        raise Wrong(f"{copy} is not empty and no copy of an earlier run; name another directory")
    for path in before - set(files):
        (copy / path).unlink(missing_ok=True)
    kept.write_text(json.dumps(sorted(files)))
    for path, content in files.items():
        target = copy / path
        if not target.exists() or target.read_bytes() != content:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)


def build(copy, target, packages, tests):
    """Builds programs and the tests that are named; their paths, or the errors as (path, line, text)."""
    environment = {**os.environ, "CARGO_TARGET_DIR": str(target)}
    environment.pop(SWITCH, None)
    programs, errors = {}, []
    wanted = [part for package in packages for part in ("-p", package)]
    commands = [["build", "-p", "lianxi-admin-cli", "--bins"]]
    if packages:
        commands.append(["test", "--no-run", "--lib", "--bins", *wanted])
    if tests:
        named = [part for test in tests for part in ("--test", test)]
        commands.append(["test", "--no-run", "-p", "lianxi-tests", *named])
    for command in commands:
        command = ["cargo", *command, "--message-format=json"]
        run = subprocess.Popen(command, cwd=copy, env=environment, stdout=subprocess.PIPE, text=True)
        for line in run.stdout:
            message = json.loads(line)
            if message["reason"] == "compiler-artifact" and message.get("executable"):
                key = message["target"]["name"], message["profile"]["test"]
                programs[key] = message["executable"]
            if message["reason"] == "compiler-message" and message["message"]["level"] == "error":
                spans = message["message"]["spans"] or [{"file_name": "", "line_start": 0}]
                for span in spans:
                    at = span["file_name"], span["line_start"], message["message"]["message"]
                    errors.append(at)
        if run.wait() != 0:
            return {}, errors or [("", 0, "cargo failed")]
    return programs, errors


def group(file):
    """The test program that a file below tests/tests belongs to: its folder, or itself."""
    found = list((TREE / "tests" / "tests").glob(f"**/{file}"))
    if len(found) != 1:
        raise Wrong(f"{file} is {len(found)} times below tests/tests")
    return found[0].relative_to(TREE / "tests" / "tests").parts[0].removesuffix(".rs")


def where(test):
    """The package, the target and the name of a test that is written `file::name`."""
    path, name = test.split("::")
    if "/" not in path:
        return "lianxi-tests", group(path), name
    package = {"node": "lianxi-node", "proto": "lianxi-proto", "admin-cli": "lianxi-admin-cli"}
    return package[path.split("/")[0]], None, name


class Trials:
    """Runs tests with one check removed, or none."""

    def __init__(self, copy, target, programs):
        self.copy, self.programs = copy, programs
        self.names = {}
        self.environment = {
            **os.environ,
            "CARGO_TARGET_DIR": str(target),
            "LIANXI_TEST_PROGRAM": programs["lianxi", False],
            "RUST_BACKTRACE": "0",
        }

    def program(self, test):
        package, target, name = where(test)
        key = {"lianxi-admin-cli": "lianxi"}.get(package, package.replace("-", "_"))
        directory = package.removeprefix("lianxi-")
        return self.programs[target or key, True], self.copy / directory, name

    def full_name(self, test):
        """The name with its modules."""
        program, directory, name = self.program(test)
        if program not in self.names:
            listed = subprocess.run(
                [program, "--list", "--format=terse"], cwd=directory, capture_output=True, text=True,
                check=True,
            ).stdout
            self.names[program] = [one.rsplit(": ", 1)[0] for one in listed.splitlines()]
        path = test.split("::")[0]
        # A file that is its own program has no module.
        alone = path.removesuffix(".rs") == where(test)[1]
        module = "" if alone else path.rsplit("/src/", 1)[-1].removesuffix(".rs")
        module = module.removesuffix("/mod").replace("/", "::")
        fits = [one for one in self.names[program] if one.split("::")[-1] == name]
        fits = [one for one in fits if not module or one.startswith(f"{module}::")]
        if len(fits) != 1:
            raise Wrong(f"{test}: {len(fits)} tests of that name")
        return fits[0]

    def run(self, removal, test):
        program, directory, _ = self.program(test)
        environment = dict(self.environment)
        environment.pop(SWITCH, None)
        if removal != BASELINE:
            environment[SWITCH] = removal
        command = [program, self.full_name(test), "--exact", "--nocapture"]
        began = time.monotonic()
        try:
            ended = subprocess.run(
                command, cwd=directory, env=environment, capture_output=True, text=True,
                errors="replace", timeout=LIMIT_S,
            )
            text = ended.stdout + ended.stderr
            outcome = "passed" if ended.returncode == 0 else "failed"
            if "1 passed; 0 failed" not in text and outcome == "passed":
                outcome = "not run"
            if "SKIPPED:" in text:
                outcome = "skipped"
        except subprocess.TimeoutExpired as expired:
            text = (expired.stdout or b"").decode(errors="replace")
            outcome = "hung"
        said = re.search(r"panicked at ([^\n]*)\n([^\n]*)", text)
        said = f"{said[1]} {said[2]}" if said else ""
        seconds = round(time.monotonic() - began, 1)
        return {"test": test, "outcome": outcome, "said": said[:300], "seconds": seconds}


def try_all(trials, removals, kept, jobs, record):
    """Every named test with all checks, then each removal's tests without its check."""
    named = sorted({test for removal in removals for test in removal["tests"]})
    wanted = [(BASELINE, test) for test in named]
    wanted += [(removal["name"], test) for removal in removals for test in removal["tests"]]
    waiting = [one for one in wanted if json.dumps(one) not in kept]
    print(f"{len(wanted)} trials, {len(wanted) - len(waiting)} known from before", flush=True)
    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        running = {pool.submit(trials.run, *one): one for one in waiting}
        for number, done in enumerate(concurrent.futures.as_completed(running), 1):
            one, result = running[done], done.result()
            kept[json.dumps(one)] = result
            record()
            print(f"{number}/{len(waiting)} {one[0]}: {one[1]} {result['outcome']}", flush=True)


def judge(removals, kept, broken):
    """What came of each removal: a word, and what each test said."""
    judged = []
    for removal in removals:
        name = removal["name"]
        entry = {key: removal[key] for key in ("name", "attacks")}
        entry["reason"] = removal.get("reason", "")
        if name in broken:
            judged.append({**entry, "verdict": "does not compile", "tests": broken[name]})
            continue
        results = [kept[json.dumps([name, test])] for test in removal["tests"]]
        sound = [kept[json.dumps([BASELINE, test])]["outcome"] for test in removal["tests"]]
        if any(outcome != "passed" for outcome in sound):
            verdict = "fails with the check too"
        elif all(result["outcome"] in CAUGHT for result in results):
            verdict = "caught"
        else:
            verdict = "NOT CAUGHT"
        judged.append({**entry, "verdict": verdict, "tests": results})
    return judged


def table(judged):
    for one in judged:
        print(f"{one['verdict']:<24} {one['name']:<34} {one['reason']}")
        for test in one["tests"]:
            if one["verdict"] == "does not compile":
                print(f"    {test}")
            elif one["verdict"] != "caught":
                print(f"    {test['test']}: {test['outcome']} {test['said']}")


def load(tree, only):
    removals = tomllib.loads((tree / TABLE).read_text())["removal"]
    unknown = set(only) - {removal["name"] for removal in removals}
    if unknown:
        raise Wrong(f"{TABLE} has no {', '.join(sorted(unknown))}")
    return [removal for removal in removals if not only or removal["name"] in only]


def run(options):
    files = sources(options.tree)
    removals = load(options.tree, options.only)
    if options.list:
        for removal in removals:
            print(f"{removal['name']:<34} {'; '.join(removal['attacks'])}")
        return 0
    state = options.directory / "results.json"
    copy, target = options.directory / "tree", options.target or options.directory / "target"
    tests = [test for removal in removals for test in removal["tests"]]
    packages = sorted({where(test)[0] for test in tests if where(test)[1] is None})
    targets = sorted({where(test)[1] for test in tests} - {None})
    broken = {}
    while True:
        standing = [removal for removal in removals if removal["name"] not in broken]
        changed, places = with_switches(files, standing)
        put(changed, copy)
        programs, errors = build(copy, target, packages, targets)
        if not errors:
            break
        at_fault = {}
        for path, line, text in errors:
            for of, first, last, name in places:
                if path == of and first <= line <= last:
                    at_fault.setdefault(name, []).append(f"{path}:{line}: {text}")
        if not at_fault:
            raise Wrong("\n".join(f"{path}:{line}: {text}" for path, line, text in errors))
        broken.update(at_fault)
    # What is known holds for these very sources alone.
    of = digest(*(part for path, text in changed.items() for part in (path.encode(), text)))
    before = json.loads(state.read_text()) if state.exists() else {}
    kept = before.get("trials", {}) if before.get("sources") == of else {}
    record = lambda: state.write_text(json.dumps({"sources": of, "trials": kept}, indent=1))
    try_all(Trials(copy, target, programs), standing, kept, options.jobs, record)
    judged = judge(removals, kept, broken)
    table(judged)
    caught = sum(one["verdict"] == "caught" for one in judged)
    print(f"{caught} of {len(judged)} removals are caught")
    if options.json:
        options.json.write_text(json.dumps(judged, indent=1) + "\n")
    return 0 if caught == len(judged) else 1


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tree", type=Path, default=TREE, help="source tree [this one]")
    parser.add_argument(
        "--directory", type=Path, default=TREE / "target" / "removed-checks",
        help="where the copy is made and results are kept [target/removed-checks]",
    )
    parser.add_argument("--target", type=Path, help="target directory [in that directory]")
    parser.add_argument("--only", action="append", default=[], metavar="NAME", help="these alone")
    parser.add_argument("--jobs", type=int, default=2, help="tests at a time [2]")
    parser.add_argument("--json", type=Path, help="also write what came out as JSON")
    parser.add_argument("--list", action="store_true", help="list the removals and end")
    options = parser.parse_args()
    try:
        return run(options)
    except Wrong as wrong:
        print(wrong, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
