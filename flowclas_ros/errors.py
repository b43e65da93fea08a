"""What every user-facing failure is raised as."""


class FlowclasError(Exception):
    """A failure the user can act on: its one-line text names the thing, its value and the way out.

    The command line prints the text alone and exits with 2; the node puts it on its state and diagnostics.
    """


class DeviceMemoryError(FlowclasError):
    """The device had no room for what was asked of it; less may fit."""


def require(holds: bool, key: str, value: object, rule: str) -> None:
    """Raise FlowclasError, which names the option, its value and the rule, unless it holds."""
    if not holds:
        raise FlowclasError(f"{key} is {value}; it must be {rule}")
