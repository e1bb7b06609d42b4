"""The page in a browser: films play, neighbours show, and every control works."""

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.feature_map.collections import EVIL, draw, page_of

BROWSER = next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None)
ACTIONS = """
<script>
(async () => {
  const told = {}, wait = (ms) => new Promise((done) => setTimeout(done, ms));
  const send = (type, x, y) => {
    const box = canvas.getBoundingClientRect();
    const where = { clientX: box.left + x, clientY: box.top + y, pointerId: 1, pointerType: "mouse", bubbles: true };
    canvas.dispatchEvent(new PointerEvent(type, where));
  };
  const key = (name) => canvas.dispatchEvent(new KeyboardEvent("keydown", { key: name, bubbles: true }));
  canvas.setPointerCapture = () => {};
  const look = () => ({ pinned, hash: location.hash, colour: colouring.name });
  told.start = look();
  told.nasty = [...document.querySelectorAll(".near button")].map((button) => button.title);
  const x = toX(2), y = toY(2);
  send("pointermove", x, y);
  told.tip = tip.hidden ? "" : tip.textContent;
  const film = tip.querySelector(".film"), positions = new Set();
  for (let n = 0; n < 12; n++) { positions.add(getComputedStyle(film).backgroundPositionX); await wait(100); }
  told.positions = positions.size;
  send("pointerdown", x, y);
  send("pointerup", x, y);
  told.clicked = look();
  told.near = document.querySelectorAll(".near button").length;
  document.querySelectorAll(".near button")[1].click();
  told.neighbour = look();
  key("ArrowRight");
  told.arrow = look();
  document.querySelector("#colours [data-name=cluster]").click();
  told.coloured = look();
  document.querySelector("#legend button").click();
  told.legend = [shown.reduce((sum, one) => sum + one, 0), colouring.entries[0].points];
  document.querySelector("#legend button").click();
  byId("search").value = "ONERROR";
  byId("search").dispatchEvent(new Event("input"));
  told.search = [byId("matches").textContent, byId("results").textContent];
  canvas.dispatchEvent(new WheelEvent("wheel", { deltaY: -300, cancelable: true }));
  told.zoom = view.zoom;
  send("pointerdown", 300, 300);
  send("pointermove", 340, 320);
  send("pointerup", 340, 320);
  told.dragged = [view.x, view.y];
  key("Escape");
  told.end = look();
  byId("theme").click();
  told.theme = root.dataset.theme;
  root.dataset.told = JSON.stringify(told);
})();
</script>"""


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="needs chromium or google-chrome")
def test_the_page_in_a_browser(features: Path, tmp_path: Path) -> None:
    draw(features, f"--out={tmp_path / 'map'}", "--clusters=3")
    page, data = page_of(tmp_path / "map")
    (tmp_path / "acted.html").write_text(page.replace("</body>", f"{ACTIONS}</body>"), encoding="utf-8")
    told = run_browser(tmp_path / "acted.html#point=8", tmp_path)
    assert told["start"] == {"pinned": 8, "hash": "#point=8", "colour": "class"}
    assert len(told["nasty"]) == 6
    assert data["paths"][2] in told["tip"]
    assert told["positions"] >= 3, "the film plays"
    assert told["clicked"] == {"pinned": 2, "hash": "#point=2", "colour": "class"}
    assert told["near"] == 6
    assert told["neighbour"]["pinned"] not in (2, 8)
    assert told["arrow"]["pinned"] >= 0
    assert told["coloured"]["hash"] == f"#point={told['arrow']['pinned']}&colour=cluster"
    assert told["legend"][0] == told["legend"][1] < 9
    assert told["search"] == ["1 of 9 points", EVIL]
    assert told["zoom"] > 1.5
    assert told["end"] == {"pinned": -1, "hash": "#colour=cluster&search=ONERROR", "colour": "cluster"}
    assert told["theme"] in ("light", "dark")


def run_browser(page: Path, folder: Path) -> dict[str, Any]:
    """Result of the script in a page, without errors."""
    assert BROWSER is not None
    words = [BROWSER, "--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'profile'}"]
    words += ["--window-size=1400,1000", "--virtual-time-budget=6000", "--dump-dom", f"file://{page}"]
    dom = subprocess.run(words, capture_output=True, text=True, check=True, timeout=200).stdout
    found = re.search(r"<html[^>]*>", dom)
    assert found is not None
    attributes = dict(re.findall(r'data-(\w+)="([^"]*)"', found[0]))
    assert "error" not in attributes, attributes["error"]
    assert attributes["ready"] == "true"
    result: dict[str, Any] = json.loads(html.unescape(attributes["told"]))
    return result
