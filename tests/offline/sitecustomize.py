"""No network but this machine's own sockets, in every Python process that has this folder on its path."""

import socket
from collections.abc import Callable

HERE = ("localhost", "::1", "", None, socket.gethostname())


def _is_here(host: object) -> bool:
    return host in HERE or str(host).startswith("127.")


def _to_here(real: Callable, place: int) -> Callable:
    """A method of sockets that takes an address as its n-th argument, counted from the end if negative."""

    def checked(self, *arguments):
        address = arguments[place]
        if self.family in (socket.AF_INET, socket.AF_INET6) and not _is_here(address[0]):
            raise OSError(f"tests have no network: {address}")
        return real(self, *arguments)

    return checked


def _of_here(real: Callable) -> Callable:
    """A function that looks a host's name up."""

    def checked(host, *arguments, **settings):
        if not _is_here(host):
            raise OSError(f"tests have no network: {host}")
        return real(host, *arguments, **settings)

    return checked


for name, place in (("connect", 0), ("connect_ex", 0), ("sendto", -1)):
    setattr(socket.socket, name, _to_here(getattr(socket.socket, name), place))
for name in ("getaddrinfo", "gethostbyname", "gethostbyname_ex"):
    setattr(socket, name, _of_here(getattr(socket, name)))
