import pytest

from ruchu import errors
from ruchu.exports import iscsi
from ruchu.exports.iscsi import Access, Unit

GOOD = Access("operator", "correct.horse.battery")
TARGET = "iqn.2026-01.org.example:web"


@pytest.mark.parametrize(
    ("access", "target", "units"),
    [
        (Access("", "correct.horse.battery"), TARGET, 1),
        (Access("a,b", "correct.horse.battery"), TARGET, 1),
        (Access("operator", "too.short"), TARGET, 1),
        (Access("operator", "with a space in it"), TARGET, 1),
        (Access("operator", "comma,comma,comma"), TARGET, 1),
        (Access("operator", "long" * 100), TARGET, 1),
        (Access("operator", "correct.horse.battery", ()), TARGET, 1),
        (Access("operator", "correct.horse.battery", ("nobody",)), TARGET, 1),
        (Access("operator", "correct.horse.battery", ("10.0.0.1/8",)), TARGET, 1),
        (GOOD, "disk", 1),
        (GOOD, "iqn.2026-01.org.example:UPPER", 1),
        (GOOD, "iqn.2026-01.org." + "x" * 300, 1),
        (GOOD, TARGET, 0),
        (GOOD, TARGET, 256),
    ],
)
def test_what_tgt_cannot_take_is_refused(tmp_path, access, target, units):
    disks = [Unit(tmp_path / "disk", writable=False)] * units
    with (
        pytest.raises(errors.UsageError) as caught,
        iscsi.exported(disks, access, target=target, listen=("127.0.0.1", 3260)),
    ):
        pytest.fail("it was taken")
    assert not access.password or access.password not in str(caught.value)


def test_passwords_are_not_shown():
    assert "horse" not in repr(GOOD)


def test_networks_are_given_as_tgt_knows_them():
    texts = ("10.0.0.7", "10.0.0.7/32", "10.0.0.0/24", "fd00::1/128")
    assert [iscsi._acl(text) for text in texts] == [
        "10.0.0.7", "10.0.0.7", "10.0.0.0/24", "fd00::1"
    ]  # fmt: skip


def test_a_host_without_tgt_is_told_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(iscsi.shutil, "which", lambda *_, **__: None)
    units = [Unit(tmp_path / "disk", writable=False)]
    with (
        pytest.raises(errors.ExportError, match="tgtd is not installed") as caught,
        iscsi.exported(units, GOOD, target=TARGET, listen=("127.0.0.1", 3260)),
    ):
        pytest.fail("it was served")
    assert "Install tgt" in caught.value.advice
