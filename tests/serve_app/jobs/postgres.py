"""A PostgreSQL server of one's own for the length of a test run, on a Unix socket."""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import subprocess
import time
from pathlib import Path

BINARIES = Path(shutil.which("initdb") or "/nowhere").resolve().parent
USER = "postgres"  # the server refuses to run as root


def available() -> bool:
    """Whether server, driver and, for root, a user to run it as are here."""
    driver = importlib.util.find_spec("psycopg") is not None
    return driver and (BINARIES / "pg_ctl").exists() and (os.geteuid() != 0 or _user() is not None)


class PostgresServer:
    """Started in a folder, stopped with its data thrown away."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        user = _user() if os.geteuid() == 0 else None
        self._as = {"user": user.pw_uid, "group": user.pw_gid} if user else {}
        if user:
            os.chown(folder, user.pw_uid, user.pw_gid)
        self.name = user.pw_name if user else pwd.getpwuid(os.geteuid()).pw_name

    @property
    def url(self) -> str:
        return f"postgresql+psycopg://{self.name}@/postgres?host={self.folder}"

    def start(self) -> None:
        self._run("initdb", "-D", str(self.folder / "data"), "-A", "trust", "--no-sync")
        self._start()

    def restart(self, away_s: float) -> None:
        """Cut every connection, stay away, come back with the data."""
        data = str(self.folder / "data")
        self._run("pg_ctl", "-D", data, "-m", "immediate", "-w", "stop")
        time.sleep(away_s)
        self._start()

    def stop(self) -> None:
        self._run("pg_ctl", "-D", str(self.folder / "data"), "-m", "immediate", "stop")

    def _start(self) -> None:
        data, log = str(self.folder / "data"), str(self.folder / "log")
        options = f"-k {self.folder} -c listen_addresses= -c fsync=off"
        self._run("pg_ctl", "-D", data, "-w", "-o", options, "-l", log, "start")

    def _run(self, *command: str) -> None:
        program = str(BINARIES / command[0])
        subprocess.run(
            [program, *command[1:]],
            check=True,
            cwd=self.folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            **self._as,  # type: ignore[call-overload]
        )


def _user() -> pwd.struct_passwd | None:
    try:
        return pwd.getpwnam(USER)
    except KeyError:
        return None
