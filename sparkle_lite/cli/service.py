"""The command `service`: a systemd unit, a Dockerfile and a compose file, filled in from where it is called.

What is printed names the program, the configuration, the folders, the user and the port as they are, so that it works
as it stands.
"""

import argparse
import ipaddress
import os
import pwd
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

from sparkle_lite.cli.commands import add_command, add_group, complain, config_path, load
from sparkle_lite.errors import SparkleError

if TYPE_CHECKING:
    from sparkle_lite.config import Config

_USER = "sparkle"
# What is hidden from a service that keeps these to itself.
_HOMES, _TEMPORARY = (Path("/home"), Path("/root"), Path("/run/user")), (Path("/tmp"), Path("/var/tmp"))  # noqa: S108
_IMAGE = "python:3.13-slim"
# Where the proxy of the compose file is found by the server, and nobody else.
_NETWORK, _PROXY = "172.31.77.0/24", "172.31.77.2"
# Where the rest of the network get their addresses: whoever starts first must not have the proxy's.
_OTHERS = "172.31.77.128/25"

_UNIT = """\
# sparkle-lite service systemd | sudo tee /etc/systemd/system/sparkle-lite.service
# sudo systemctl daemon-reload && sudo systemctl enable --now sparkle-lite
[Unit]
Description=Sparkle Lite BTN server
Wants=network-online.target
After=network-online.target

[Service]
# The server says itself when it takes requests; bringing a large database up to date may take its time.
Type=notify
TimeoutStartSec=infinity
User={user}
WorkingDirectory={folder}
{prepare}ExecStart={start}
ExecReload=/bin/kill -HUP $MAINPID
Restart=on-failure
RestartSec=5
# What is wrong with the configuration stays so.
RestartPreventExitStatus=2
TimeoutStopSec=20
# Restarted where its event loop stands still for so long.
WatchdogSec=60
WatchdogSignal=SIGKILL
# Connections of many clients, and files of the database.
LimitNOFILE=65536
UMask=0077

# It writes its data, and nothing else.
ProtectSystem=strict
ReadWritePaths={writable}
ProtectHome={home}
PrivateTmp={private_tmp}
PrivateDevices=true
{bounds}
NoNewPrivileges=true
RestrictSUIDSGID=true
RemoveIPC=true
{private_users}ProtectKernelTunables=true
ProtectKernelModules=true
ProtectKernelLogs=true
ProtectControlGroups=true
ProtectClock=true
ProtectHostname=true
ProtectProc=invisible
ProcSubset=pid
RestrictNamespaces=true
RestrictRealtime=true
LockPersonality=true
MemoryDenyWriteExecute=true
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallFilter=~@privileged
SystemCallErrorNumber=EPERM

[Install]
WantedBy=multi-user.target
"""

_DOCKERFILE = """\
# In a copy of the repository, for amd64 and arm64:
#   sparkle-lite service docker > Dockerfile && docker build -t sparkle-lite .
#   docker run -d --name sparkle-lite --restart unless-stopped --read-only --tmpfs /tmp --cap-drop ALL \\
#       -v sparkle-lite:/data -p {publish} sparkle-lite
#   docker logs sparkle-lite      # what the first start printed
#   docker exec sparkle-lite sparkle-lite doctor
FROM {image} AS build
COPY pyproject.toml README.md config.example.toml /source/
COPY sparkle_lite /source/sparkle_lite
COPY tests/bench /source/tests/bench
RUN python -m venv /opt/sparkle-lite && /opt/sparkle-lite/bin/pip install --no-cache-dir /source

FROM {image}
RUN useradd --system --uid 10001 --home-dir /data --no-create-home --shell /usr/sbin/nologin sparkle \\
    && install -d -o sparkle -g sparkle -m 0700 /data
COPY --from=build /opt/sparkle-lite /opt/sparkle-lite
# What the container is made for wins over the file; everything else is taken from /data/config.toml.
ENV PATH=/opt/sparkle-lite/bin:$PATH \\
    PYTHONDONTWRITEBYTECODE=1 \\
    SPARKLE_SERVER__HOST=0.0.0.0 \\
    SPARKLE_SERVER__PORT={port} \\
    SPARKLE_DATABASE__PATH=/data/sparkle.db
USER sparkle
WORKDIR /data
VOLUME /data
EXPOSE {port}
HEALTHCHECK --interval=30s --timeout=5s --start-period=2m \\
    CMD ["python", "-c", "from http.client import HTTPConnection as C; c = C('127.0.0.1', {port}, timeout=4); \
c.request('GET', '/healthz'); raise SystemExit(c.getresponse().status != 200)"]
ENTRYPOINT ["sparkle-lite"]
CMD ["serve"]
"""

_COMPOSE = """\
# Beside the Dockerfile of `sparkle-lite service docker`:
#   sparkle-lite service compose > compose.yaml && docker compose up -d --build
#   docker compose logs sparkle-lite      # what the first start printed
# With TLS by Caddy on ports 80 and 443:
#   SPARKLE_DOMAIN=btn.example.org docker compose --profile caddy up -d --build
services:
  sparkle-lite:
    build: .
    image: sparkle-lite
    restart: unless-stopped
    read_only: true
    tmpfs:
      - /tmp
    cap_drop:
      - ALL
    security_opt:
      - no-new-privileges:true
    stop_grace_period: 20s
    environment:
      SPARKLE_SERVER__TRUSTED_PROXIES: '{trusted}'
    volumes:
      - data:/data
{mount}    ports:
      - "{publish}"
    networks:
      - front

  caddy:
    image: caddy:2-alpine
    profiles:
      - caddy
    restart: unless-stopped
    command: caddy reverse-proxy --from ${{SPARKLE_DOMAIN:-{domain}}} --to sparkle-lite:{port}
    ports:
      - "80:80"
      - "443:443"
    volumes:
      - caddy:/data
    networks:
      front:
        ipv4_address: {proxy}

networks:
  front:
    ipam:
      config:
        - subnet: {network}
          ip_range: {others}

volumes:
  data:
  caddy:
"""


def add_service_commands(commands: Any) -> None:
    """The group `service`."""
    group = add_group(commands, "service")
    unit = add_command(group, "systemd", _systemd)
    unit.add_argument("--user", metavar="NAME")
    add_command(group, "docker", _docker)
    add_command(group, "compose", _compose)


# --- systemd ----------------------------------------------------------------------------------------------------------


class Deployment(NamedTuple):
    """A server as it is installed: the words that start it, its working directory, what it writes, and whose it is."""

    start: Sequence[str]
    folder: Path
    writable: Sequence[Path]
    user: str
    port: int


def _systemd(args: argparse.Namespace) -> None:
    config = load(args)
    path = config_path(args)
    start = [*_program(), *(["--config", str(path.absolute())] if path is not None else []), "serve"]
    folder = Path.cwd()
    data, backups = config.database.file.parent, config.backup.path
    writable = (data,) if backups.is_relative_to(data) else (data, backups)
    _warn_of_variables(os.environ)
    user = args.user or _owner(config, folder)
    _warn_of_user(user)
    print(unit(Deployment(start=start, folder=folder, writable=writable, user=user, port=config.server.port)), end="")


def unit(place: Deployment) -> str:
    """The text of a unit."""
    paths = _needed(place)
    in_home, in_temporary = (any(_is_below(path, roots) for path in paths) for roots in (_HOMES, _TEMPORARY))
    is_low = 0 < place.port < 1024
    bound = "CAP_NET_BIND_SERVICE" if is_low else ""
    return _UNIT.format(
        user=place.user,
        folder=str(place.folder).replace("%", "%%"),
        prepare="".join(_prepare(folder, place.user) for folder in place.writable if not folder.is_dir()),
        start=_command(place.start),
        writable=" ".join(_quoted(str(folder)) for folder in place.writable),
        home="read-only" if in_home else "true",
        private_tmp="false" if in_temporary else "true",
        bounds=f"CapabilityBoundingSet={bound}\nAmbientCapabilities={bound}",
        # A user namespace of its own would not let it have a port below 1024.
        private_users="" if is_low else "PrivateUsers=true\n",
    )


def _needed(place: Deployment) -> list[Path]:
    """What must not be hidden from it, by its names and where links lead: its files, and the program's."""
    words = [path for path in map(Path, place.start) if path.is_absolute()]
    program = map(Path, (sys.executable, sys.prefix, sys.base_prefix, __file__))
    paths = [*words, *program, place.folder, *place.writable]
    return [*paths, *(path.resolve() for path in paths)]


def _prepare(folder: Path, user: str) -> str:
    """The line that makes a folder: where nothing else may be written, the service could not make it itself."""
    words = ("/usr/bin/install", "-d", "-m", "0700", "-o", user, str(folder))
    return f"ExecStartPre=+{_command(words)}\n"


def _command(words: Sequence[str]) -> str:
    """A command of a unit (systemd.service(5), "Command lines"): in all words but the program's variables are put."""
    return " ".join([_quoted(words[0]), *(_quoted(word.replace("$", "$$")) for word in words[1:])])


def _quoted(text: str) -> str:
    """A word of a unit (systemd.syntax(7), "Quoting") that stands for itself, whatever is in it."""
    text = text.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{text}"' if any(char in text for char in " \t;'\"\\") else text


def _is_below(path: Path, roots: Sequence[Path]) -> bool:
    return any(path.is_relative_to(root) for root in roots)


def _program() -> list[str]:
    """The words that start this program: the console script beside the interpreter, or the interpreter itself."""
    script = Path(sys.executable).with_name("sparkle-lite")
    if script.exists():
        return [str(script)]
    return [sys.executable, "-m", "sparkle_lite"]


def _owner(config: "Config", folder: Path) -> str:
    """Who has the data, or the folder, or calls; root is nobody to run a server as."""
    for path in (config.database.file, config.database.file.parent, folder):
        if path.exists() and path.stat().st_uid:
            return _name(path.stat().st_uid)
    return _name(os.geteuid()) if os.geteuid() else _USER


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _warn_of_user(name: str) -> None:
    try:
        pwd.getpwnam(name)
    except KeyError:
        if not name.isdecimal():
            complain(f"there is no user {name} yet; make it with: sudo useradd --system --user-group {name}")


def _warn_of_variables(environ: Mapping[str, str]) -> None:
    names = sorted(name for name in environ if name.startswith("SPARKLE_") and "__" in name)
    if names:
        complain(f"the service will not have these variables, which are set here: {', '.join(names)}")


# --- Containers -------------------------------------------------------------------------------------------------------


def _docker(args: argparse.Namespace) -> None:
    config = load(args)
    _require_port(config)
    if not Path("pyproject.toml").exists():
        complain("this folder is no copy of the repository; put the Dockerfile into one")
    print(_DOCKERFILE.format(image=_IMAGE, port=config.server.port, publish=_published(config)), end="")


def _compose(args: argparse.Namespace) -> None:
    config, path = load(args), config_path(args)
    _require_port(config)
    mount = "" if path is None else f"      - {_yaml(f'{path.absolute()}:/data/config.toml:ro')}\n"
    trusted = ", ".join(f'"{network}"' for network in (*map(str, config.server.trusted_proxies), _PROXY))
    text = _COMPOSE.format(
        trusted=f"[{trusted}]",
        mount=mount,
        publish=_published(config),
        domain=urlsplit(config.server.public_url).hostname or "localhost",
        port=config.server.port,
        proxy=_PROXY,
        network=_NETWORK,
        others=_OTHERS,
    )
    print(text, end="")


def _require_port(config: "Config") -> None:
    if not config.server.port:
        raise SparkleError("bad_request", "service.no_port")


def _published(config: "Config") -> str:
    """The port on the host, for no more networks than the server is for without a container."""
    host, port = config.server.host, config.server.port
    if host in ("0.0.0.0", "::"):  # noqa: S104 -- compared, not bound
        return f"{port}:{port}"
    try:
        address = ipaddress.ip_address("127.0.0.1" if host == "localhost" else host)
    except ValueError:
        raise SparkleError("bad_request", "service.host_name", host=host) from None
    return f"{f'[{address}]' if address.version == 6 else address}:{port}:{port}"


def _yaml(text: str) -> str:
    """A plain text in YAML, where compose would put variables in."""
    return "'" + text.replace("'", "''").replace("$", "$$") + "'"
