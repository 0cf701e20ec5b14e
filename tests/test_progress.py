"""Away from a terminal a bar writes its first and last state and, in between, at most a line every 30 s."""

from mocalib.storage.progress import bar


def test_a_thousand_quick_steps_leave_two_lines(capsys):
    with bar("training", 1_000, unit="step") as shown:
        for _ in range(1_000):
            shown.update()
    out, err = capsys.readouterr()
    assert err == ""
    assert out.count("\r") == 2
    assert "1000/1000" in out
    assert out.isascii()
