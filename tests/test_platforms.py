"""What the package and the examples ask of the system is there on Windows and macOS too, or stands behind a question.

docs/policy.md has the argument; no such machine is at hand, so this reads the sources.
"""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
FILES = [*sorted((ROOT / "jaxnn").rglob("*.py")), *sorted((ROOT / "examples").rglob("*.py"))]
# What Windows does not have (of macOS' os module, only sched_getaffinity is missing).
MODULES = {"fcntl", "grp", "posix", "pty", "pwd", "readline", "resource", "termios", "tty"}
OF_OS = "chown fchown fchmod fork forkpty getegid geteuid getgid getpgid getsid getuid killpg mkfifo nice posix_fadvise".split()
OF_OS += "posix_spawn pread preadv pwrite pwritev sched_getaffinity sched_setaffinity setsid statvfs sysconf uname wait4".split()
OF_SIGNAL = (
    "SIGALRM SIGCHLD SIGHUP SIGKILL SIGPIPE SIGQUIT SIGUSR1 SIGUSR2 alarm pause pthread_kill setitimer sigwait".split()
)
# A line that makes sure: the branch is not taken where the name is missing.
ASKS = re.compile(r"hasattr\(os|sys\.platform|except ImportError|find_spec")


def assumed(text):
    """The lines of a source that only some systems can run, and that nothing in their function or module asks about."""
    tree = ast.parse(text)
    functions = [node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]
    for node in ast.walk(tree):
        names = []
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            names = [name for name in names if name in MODULES]
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            missing = {"os": OF_OS, "signal": OF_SIGNAL}.get(node.value.id, [])
            names = [f"{node.value.id}.{node.attr}"] if node.attr in missing else []
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            names = [node.value] if re.match(r"/(proc|dev|tmp|etc|sys)/", node.value) else []
        elif isinstance(node, ast.keyword) and node.arg == "shell":
            names = ["shell="]
        if names:
            around = [f for f in functions if f.lineno <= node.lineno <= (f.end_lineno or 0)]
            lines = text.split("\n")
            first, last = (around[-1].lineno, around[-1].end_lineno) if around else (node.lineno - 1, node.lineno + 1)
            if not ASKS.search("\n".join(lines[first - 1 : last])):
                yield node.lineno, names[0]


def without_encoding(text):
    """The calls that read or write text in whatever encoding the system prefers."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call) and not any(keyword.arg == "encoding" for keyword in node.keywords):
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            if name in ("read_text", "write_text"):
                yield node.lineno, name
            elif isinstance(node.func, ast.Name) and name == "open":
                mode = node.args[1] if len(node.args) > 1 else None
                if mode is None or isinstance(mode, ast.Constant) and "b" not in mode.value:
                    yield node.lineno, name


def test_nothing_assumes_linux():
    words = re.compile(
        r"\b(os|signal)\.|import (" + "|".join(sorted(MODULES)) + r")\b|\bshell=|['\"]/\w+/|open\(|_text\("
    )
    found = []
    for path in FILES:
        text = path.read_text(encoding="utf-8")
        if words.search(text):  # most files have nothing of the kind, and parsing takes time
            found += [(str(path.relative_to(ROOT)), *row) for row in (*assumed(text), *without_encoding(text))]
    assert found == []


def test_what_would_be_found():
    assert [name for _, name in assumed("import os, signal\nos.killpg(1, signal.SIGKILL)")] == [
        "os.killpg",
        "signal.SIGKILL",
    ]
    assert [name for _, name in assumed("import fcntl")] == ["fcntl"]
    assert [name for _, name in assumed("open('/proc/self/status')")] == ["/proc/self/status"]
    assert not list(assumed("def f():\n    return os.getuid() if hasattr(os, 'getuid') else 0"))
    assert [name for _, name in without_encoding("open('a'), p.read_text(), open('a', 'rb')")] == ["open", "read_text"]
