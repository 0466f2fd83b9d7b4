"""Whether W&B is online: never unasked, and never silently offline under a sweep's agent."""

from __future__ import annotations

import pytest

from lightning_modules.cli.run_record import choose_wandb_mode

AGENT = {"WANDB_SWEEP_ID": "abc12345", "NETRC": "/nowhere"}
NETRC = "machine {} login user password {}\n"


def test_a_run_is_offline_unless_asked():
    environment: dict[str, str] = {}
    assert choose_wandb_mode(environment) is None
    assert environment == {"WANDB_MODE": "offline"}
    assert choose_wandb_mode({**AGENT, "WANDB_MODE": "disabled"}) is None  # said by the user: nothing to add


def test_an_agents_run_without_login_is_offline_and_says_so():
    environment = dict(AGENT)
    warning = choose_wandb_mode(environment)
    assert environment["WANDB_MODE"] == "offline"
    assert warning is not None
    assert "abc12345" in warning
    assert "wandb login" in warning
    assert "WANDB_MODE" in warning
    assert "\n" not in warning


@pytest.mark.parametrize("login", [{"WANDB_API_KEY": "k" * 40}, {"WANDB_IDENTITY_TOKEN_FILE": "/a/token"}])
def test_an_agents_run_with_a_login_is_left_online(login):
    environment = {**AGENT, **login}
    assert choose_wandb_mode(environment) is None
    assert "WANDB_MODE" not in environment


@pytest.mark.parametrize(
    ("base_url", "machine", "online"),
    [
        (None, "api.wandb.ai", True),
        (None, "api.forge.coreweave.com", True),  # where `wandb login` of 0.31 writes it
        ("https://api.forge.coreweave.com", "api.wandb.ai", True),
        (None, "github.com", False),
        ("https://wandb.example.org:8080", "wandb.example.org", True),
        ("https://wandb.example.org", "api.wandb.ai", False),
    ],
)
def test_the_login_is_looked_for_where_wandb_keeps_it(base_url, machine, online, tmp_path):
    (tmp_path / "netrc").write_text(NETRC.format(machine, "k" * 40))
    (tmp_path / "netrc").chmod(0o600)
    environment = {**AGENT, "NETRC": str(tmp_path / "netrc")} | ({"WANDB_BASE_URL": base_url} if base_url else {})
    warning = choose_wandb_mode(environment)
    assert (warning is None, "WANDB_MODE" in environment) == (online, not online)
