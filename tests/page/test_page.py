"""The page in a headless Chromium: each button clicked, by hand as by keyboard; `make test-page`.

The browser reaches nothing but the server: every other name leads nowhere.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path

import axe_core_python
import httpx
import pytest
from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select, WebDriverWait

AXE = Path(axe_core_python.__file__).parent / "axe.min.js"
SHOTS = os.environ.get("SCREENSHOTS")  # a folder that gets them
WIDE, PHONE = (1100, 1500), (390, 844)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    code = (
        "import sys; from longcompress.synthetic.scenes import make_scene, write_video; "
        "write_video(make_scene(3, 24.0), sys.argv[1], size_px=128)"
    )
    subprocess.run([os.environ["PYTHON_OF_SERVER"], "-c", code, path], check=True)
    return path


@contextmanager
def serving(folder, **environment):
    words = ["-m", "longcompress", "serve", "--port", "0", "--folder", str(folder)]
    command, where = [os.environ["PYTHON_OF_SERVER"], *words], os.environ | environment
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=sys.stderr, text=True, env=where
    ) as process:
        try:
            yield process.stdout.readline().split()[-1].removesuffix("/v1")
        finally:
            process.terminate()


@pytest.fixture(scope="module")
def address(tmp_path_factory, clip):
    with serving(tmp_path_factory.mktemp("served"), LONGCOMPRESS_LIVE_SOURCES=f"door={clip}") as address:
        yield address


@pytest.fixture
def browser(address):
    options = webdriver.ChromeOptions()
    for flag in (
        "--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--no-proxy-server",
        "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream",
        "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    ):  # fmt: skip
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    service = webdriver.ChromeService(shutil.which("chromedriver"))
    driver = webdriver.Chrome(options, service)
    driver.set_window_size(*WIDE)
    try:
        driver.get(address)
        until(driver, lambda: "tiny" in text(driver, "#model"))
        yield driver
        asked = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
        urls = [m["params"]["request"]["url"] for m in asked if m["method"] == "Network.requestWillBeSent"]
        assert urls and all(url.startswith((address, "data:", "blob:")) for url in urls)
        assert not [entry for entry in driver.get_log("browser") if "Content Security" in entry["message"]]
    finally:
        driver.quit()


def until(driver, condition):
    """What a condition gives as soon as it holds; the page may replace what it looks at."""
    wait = WebDriverWait(driver, 60, 0.05, ignored_exceptions=[StaleElementReferenceException])
    return wait.until(lambda _: condition())


def attribute(driver, css, name):
    """In one step: the page may replace the element."""
    script = "return document.querySelector(arguments[0]).getAttribute(arguments[1])"
    return driver.execute_script(script, css, name)


def find(driver, css):
    return driver.find_element(By.CSS_SELECTOR, css)


def find_all(driver, css):
    return driver.find_elements(By.CSS_SELECTOR, css)


def text(driver, css):
    return find(driver, css).text


def fill(driver, css, value):
    field = find(driver, css)
    field.clear()
    field.send_keys(str(value))


def ask(driver, clip, question="When is the red ball seen?", budget=64):
    find(driver, "#file").send_keys(str(clip))
    fill(driver, "#question", question)
    fill(driver, "#budget", budget)
    find(driver, "#send").click()
    until(driver, lambda: text(driver, "#status") == "Done" or text(driver, "#error"))
    assert not text(driver, "#error")


def second(driver):
    return driver.execute_script("return document.getElementById('video').currentTime")


def painted(driver):
    return driver.execute_script(
        "const c = document.getElementById('overlay'); if (!c.width) return 0;"
        "const { data } = c.getContext('2d').getImageData(0, 0, c.width, c.height);"
        "return data.filter((value, i) => i % 4 === 3 && value).length"
    )


def faults(driver):
    """Serious and critical findings of axe-core."""
    driver.execute_script(AXE.read_text())
    violations = driver.execute_async_script("axe.run().then(arguments[arguments.length - 1])")["violations"]
    return [
        (v["id"], [n["html"][:100] for n in v["nodes"]])
        for v in violations if v["impact"] in ("serious", "critical")
    ]  # fmt: skip


def shoot(driver, name):
    if SHOTS:
        driver.save_screenshot(f"{SHOTS}/{name}.png")


def test_two_budgets_side_by_side_and_every_button_of_an_answer(browser, clip):
    find(browser, "#compare").click()
    fill(browser, "#second", 24)
    ask(browser, clip)
    articles = find_all(browser, "article")
    assert [text(article, "h2") for article in articles] == ["Budget 64", "Budget 24"]
    assert articles[0].rect["y"] == articles[1].rect["y"] and articles[0].rect["x"] < articles[1].rect["x"]
    for article, budget in zip(articles, (64, 24), strict=True):
        assert text(article, ".answer") and f"{budget} tokens" in text(article, ".counts")
        chart = find(article, ".chart svg").get_attribute("aria-label")
        streams = sum(int(n) for n in chart.split(":")[-1].split(","))
        assert 0 < streams <= budget

    first = articles[0]
    events = find_all(first, ".events button")
    assert events and len(find_all(first, ".timeline button")) == len(events)
    start_s = sum(
        float(n) * 60**k for k, n in enumerate(reversed(events[0].text.split(" to ")[0].split(":")))
    )
    for button in (events[0], find(first, ".timeline button"), find(first, ".answer button")):
        browser.execute_script("document.getElementById('video').currentTime = 20.5")
        button.click()
        until(browser, lambda: abs(second(browser) - start_s) < 0.05)
    thumbnails = find_all(first, ".thumbnails button")
    assert len(thumbnails) > 1
    times = []
    for button in thumbnails[:2]:
        button.click()
        times.append(second(browser))
        label = button.get_attribute("aria-label").removeprefix("Frame at 0:")
        assert times[-1] == pytest.approx(float(label), abs=0.06)
        width = browser.execute_script("return arguments[0].naturalWidth", find(button, "img"))
        assert width > 16
    assert times[0] < times[1]

    assert painted(browser) == 0
    for article, budget in zip(articles, (64, 24), strict=True):
        find(article, ".patches").click()
        until(browser, lambda b=budget: text(browser, "#patches-text").startswith(f"Budget {b}:"))
        assert painted(browser) > 0 and find(article, ".patches").get_attribute("aria-pressed") == "true"
    assert find(first, ".patches").get_attribute("aria-pressed") == "false"
    before = text(browser, "#patches-text")
    browser.execute_script("document.getElementById('video').currentTime = 2.5")
    until(browser, lambda: text(browser, "#patches-text").endswith("0:02") and before)
    shoot(browser, "serve_page")
    find(articles[1], ".patches").click()
    assert painted(browser) == 0 and text(browser, "#patches-text") == ""
    assert faults(browser) == []


def press(browser, key):
    """A key for whatever has the focus; an element for files would take it for a path."""
    ActionChains(browser).send_keys(key).perform()


def test_keyboard_alone(browser, clip, address):
    find(browser, "#file").send_keys(str(clip))
    browser.execute_script("document.getElementById('file').focus()")
    for _ in range(40):
        if browser.switch_to.active_element.get_attribute("id") == "send":
            break
        press(browser, Keys.TAB)
    press(browser, Keys.ENTER)
    until(browser, lambda: text(browser, "#status") == "Done")
    reached = set()
    for _ in range(80):
        press(browser, Keys.TAB)
        active = browser.switch_to.active_element
        reached.add(
            active.get_attribute("class") or active.get_attribute("id") or active.get_attribute("aria-label")
        )
    assert "patches" in reached and any("Frame at" in str(name) for name in reached)
    button = find(browser, ".patches")
    button.send_keys(Keys.SPACE)
    until(browser, lambda: painted(browser) > 0)


def test_files_sent_before_can_be_asked_about_and_deleted(browser, clip, address):
    ask(browser, clip)
    num = len(httpx.get(f"{address}/v1/files", trust_env=False).json()["data"])
    browser.refresh()
    until(browser, lambda: find(browser, "#uploads").is_displayed())
    assert not find(browser, "#delete").is_enabled()
    Select(find(browser, "#uploads")).select_by_index(1)
    until(browser, lambda: find(browser, "#video").is_displayed())
    until(
        browser, lambda: browser.execute_script("return document.getElementById('video').videoWidth") == 128
    )
    fill(browser, "#budget", 64)
    fill(browser, "#question", "When is the red ball seen?")
    find(browser, "#send").click()
    until(browser, lambda: text(browser, "#status") == "Done")
    assert "read before" in text(browser, ".counts") or "read now" in text(browser, ".counts")
    find(browser, "#delete").click()
    until(
        browser,
        lambda: len(httpx.get(f"{address}/v1/files", trust_env=False).json()["data"]) == num - 1,
    )
    until(browser, lambda: not find(browser, "#player").is_displayed())


def test_a_part_with_other_settings(browser, clip):
    find(browser, "summary").click()
    for name, value in {"start": 10, "end": 20, "rate": 2, "thumbnails": 0}.items():
        fill(browser, f"#{name}", value)
    ask(browser, clip)
    assert "for 0:10" in text(browser, ".counts") and text(browser, ".thumbnails") == "None."
    for button in find_all(browser, ".events button"):
        button.click()
        assert second(browser) >= 10
    assert not find(browser, "#url").is_displayed()  # the server fetches none


def test_errors_are_told_and_work_can_be_stopped(browser, clip, tmp_path):
    find(browser, "#send").click()
    until(browser, lambda: "Choose a video" in text(browser, "#error"))
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    find(browser, "#file").send_keys(str(broken))
    find(browser, "#send").click()
    until(browser, lambda: "no video or audio" in text(browser, "#error"))
    assert find(browser, "#send").is_enabled() and not find(browser, "#stop").is_enabled()
    find(browser, "#file").send_keys(str(clip))
    fill(browser, "#budget", 63)
    browser.execute_script(
        "const at = document.getElementById('send'), stop = document.getElementById('stop');"
        "at.click(); stop.click();"
    )
    until(browser, lambda: text(browser, "#status") == "Stopped")
    assert not text(browser, "#error") and find(browser, "#send").is_enabled()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_phone_dark_and_light(browser, clip, scheme):
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    size = {"width": PHONE[0], "height": PHONE[1], "deviceScaleFactor": 1, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    find(browser, "#compare").click()
    ask(browser, clip)
    back = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, back.removeprefix("rgb(").removesuffix(")").split(","))) < 300) == (scheme == "dark")
    assert browser.execute_script("return document.documentElement.scrollWidth") <= PHONE[0]
    first, second_ = find_all(browser, "article")
    assert first.rect["x"] == second_.rect["x"] and first.rect["y"] < second_.rect["y"]
    assert faults(browser) == []
    browser.execute_script("document.querySelector('article').scrollIntoView()")
    shoot(browser, f"serve_phone_{scheme}")


def go_live(driver, source="test", **fields):
    """Open the live view and start; the frames that were sent by then."""
    find(driver, "#live-open").click()
    until(driver, lambda: find_all(driver, f"#live-source [value='{source}']"))
    Select(find(driver, "#live-source")).select_by_value(source)
    if fields:
        find(driver, "#live summary").click()
    for name, value in fields.items():
        fill(driver, f"#live-{name}", value)
    find(driver, "#live-start").click()
    until(driver, lambda: num_frames(driver) > 1 or text(driver, "#live-error"))


def num_frames(driver):
    words = text(driver, "#live-status").replace(",", "").split()
    return int(words[words.index("frames") - 1]) if "frames" in words else 0


def request(driver, words="When is the red ball seen?"):
    num = len(find_all(driver, "#live-requests li"))
    fill(driver, "#live-request-text", words)
    find(driver, "#live-request button").click()
    until(driver, lambda: len(find_all(driver, "#live-requests li")) == num + 1)


def shades(driver, css):
    """Values that a canvas has; 1 where nothing was painted."""
    return driver.execute_script(
        "const c = document.querySelector(arguments[0]);"
        "return new Set(c.getContext('2d').getImageData(0, 0, c.width, c.height).data).size", css
    )  # fmt: skip


def test_live_from_a_camera_and_a_microphone(browser):
    """The browser's own camera and beeps."""
    go_live(browser, "both")
    assert not text(browser, "#live-error") and shades(browser, "#live-now") > 5
    assert find(browser, "#live-stop").is_enabled() and not find(browser, "#live-start").is_enabled()
    request(browser)
    until(browser, lambda: "score" in text(browser, "#live-requests"))
    words = attribute(browser, "#live-chart svg", "aria-label")
    assert words.startswith("Score of When is the red ball seen?: ")
    fill(browser, "#live-ask-text", "When is the blue box seen?")
    find(browser, "#live-ask button").click()
    asked = lambda: [li for li in find_all(browser, "#live-replies li") if "blue box" in li.text]  # noqa: E731
    until(browser, asked)
    button = find(asked()[0], "button")
    assert shades(browser, "#live-then") == 1
    button.click()
    until(browser, lambda: text(browser, "#live-second").startswith("Frame at 0:0"))
    assert shades(browser, "#live-then") > 5
    find(browser, "#live-scores").click()
    until(browser, lambda: num_frames(browser) > 6)
    before = len(attribute(browser, "#live-chart polyline", "points").split())
    num = num_frames(browser)
    until(browser, lambda: num_frames(browser) > num + 2)
    assert len(attribute(browser, "#live-chart polyline", "points").split()) <= before + 1
    assert faults(browser) == []
    if SHOTS:
        find(browser, "#live").screenshot(f"{SHOTS}/serve_live.png")
    find(browser, "#live-requests button").click()
    until(browser, lambda: not find_all(browser, "#live-requests li"))
    find(browser, "#live-stop").click()
    until(browser, lambda: text(browser, "#live-status").startswith("Stopped: "))
    status = text(browser, "#live-status")
    assert int(status.split()[1]) >= 4 and status.endswith(" dropped")
    assert not text(browser, "#live-error") and find(browser, "#live-start").is_enabled()
    assert not any(b.is_enabled() for b in find_all(browser, "#live form button"))


def test_live_from_a_source_of_the_server(browser):
    """What is seen is what the server reads; the browser's camera is not asked for."""
    go_live(browser, "named:door")
    assert not text(browser, "#live-error") and shades(browser, "#live-now") > 5
    assert find(browser, "#live-source option:checked").text == "door"
    request(browser)
    until(browser, lambda: "score" in text(browser, "#live-requests"))
    fill(browser, "#live-ask-text", "When is the blue box seen?")
    find(browser, "#live-ask button").click()
    until(browser, lambda: find_all(browser, "#live-replies li button"))
    find(browser, "#live-replies li button").click()
    until(browser, lambda: text(browser, "#live-second").startswith("Frame at 0:"))
    assert shades(browser, "#live-then") > 5
    find(browser, "#live-stop").click()
    until(browser, lambda: text(browser, "#live-status").startswith("Stopped: "))
    assert not text(browser, "#live-error") and find(browser, "#live-start").is_enabled()


def test_live_by_keyboard(browser):
    browser.execute_script("document.getElementById('live-open').focus()")
    press(browser, Keys.ENTER)
    Select(find(browser, "#live-source")).select_by_value("test")
    for name in ("live-start", "live-request-text"):
        for _ in range(40):
            if browser.switch_to.active_element.get_attribute("id") == name:
                break
            press(browser, Keys.TAB)
        press(browser, Keys.ENTER if name == "live-start" else "When is the red ball seen?" + Keys.ENTER)
        until(browser, lambda: num_frames(browser) > 0)
    until(browser, lambda: find_all(browser, "#live-requests li"))
    press(browser, Keys.TAB + Keys.TAB + Keys.ENTER)  # past its own button, on to what takes it away
    until(browser, lambda: not find_all(browser, "#live-requests li"))
    assert browser.switch_to.active_element.get_attribute("id") == "live-request-text"
    find(browser, "#live-open").send_keys(Keys.SPACE)  # closing the view ends it
    until(browser, lambda: not find(browser, "#live").is_displayed())
    find(browser, "#live-open").send_keys(Keys.SPACE)
    until(browser, lambda: text(browser, "#live-status").startswith("Stopped: "))


def test_live_settings_and_their_errors(browser):
    go_live(browser, yes="red", no="red")
    until(browser, lambda: "must begin with different tokens" in text(browser, "#live-error"))
    until(browser, lambda: find(browser, "#live-start").is_enabled())
    for name, value in {"no": "nothing", "yes": "", "threshold": 0.9, "rate": 4, "budget": 64}.items():
        fill(browser, f"#live-{name}", value)
    find(browser, "#live-start").click()
    until(browser, lambda: num_frames(browser) > 1)
    start = num_frames(browser), browser.execute_script("return performance.now()")
    until(browser, lambda: num_frames(browser) >= start[0] + 12)
    assert browser.execute_script("return performance.now()") - start[1] > 2000  # four a second
    assert not text(browser, "#live-error")


def test_live_with_a_key(browser, address, tmp_path):
    key = "k" * 24
    with serving(tmp_path, LONGCOMPRESS_API_KEYS=key) as locked:
        browser.get(locked)
        go_live(browser)
        until(browser, lambda: "a key is needed" in text(browser, "#live-error"))
        until(browser, lambda: find(browser, "#live-start").is_enabled())
        find(browser, "#ask summary").click()
        fill(browser, "#key", key + Keys.TAB)
        until(browser, lambda: "tiny" in text(browser, "#model"))
        find(browser, "#live-start").click()
        until(browser, lambda: num_frames(browser) > 1)
        assert not text(browser, "#live-error")
        browser.get_log("performance")  # of the other address
        browser.get(address)


class Cable:
    """Between the browser and the server, to be cut."""

    def __init__(self, address):
        self.target = ("127.0.0.1", int(address.rpartition(":")[2]))
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        self.ends, self.is_cut = [], False
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                near, _ = self.listener.accept()
            except OSError:
                return
            if self.is_cut:
                near.close()
                continue
            far = socket.create_connection(self.target)
            self.ends += [near, far]
            for a, b in ((near, far), (far, near)):
                threading.Thread(target=self.copy, args=(a, b), daemon=True).start()

    def copy(self, a, b):
        try:
            while data := a.recv(1 << 16):
                b.sendall(data)
        except OSError:
            pass
        finally:
            b.close()

    def cut(self):
        self.is_cut = True
        for end in self.ends:
            end.close() if end.fileno() < 0 else end.shutdown(socket.SHUT_RDWR)
        self.ends = []


def test_live_goes_on_after_a_cut(browser, address):
    cable = Cable(address)
    try:
        browser.get(cable.address)
        until(browser, lambda: "tiny" in text(browser, "#model"))
        go_live(browser)
        request(browser)
        cable.cut()
        until(browser, lambda: "trying again" in text(browser, "#live-status"))
        fill(browser, "#live-request-text", "When is the bell heard?")
        find(browser, "#live-request button").click()  # it is sent when the connection is back
        num = num_frames(browser)
        cable.is_cut = False
        until(browser, lambda: len(find_all(browser, "#live-requests li")) == 2)
        until(browser, lambda: num_frames(browser) > num + 2)
        texts = [item.text for item in find_all(browser, "#live-requests li")]
        assert "red ball" in texts[0] and "bell" in texts[1] and not text(browser, "#live-error")
        find(browser, "#live-stop").click()
        until(browser, lambda: text(browser, "#live-status").startswith("Stopped: "))
        browser.get_log("performance")  # of the cable's address
        browser.get(address)
    finally:
        cable.listener.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_live_on_a_phone_dark_and_light(browser, scheme):
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    size = {"width": PHONE[0], "height": PHONE[1], "deviceScaleFactor": 1, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    go_live(browser)
    request(browser)
    until(browser, lambda: find_all(browser, "#live-replies li"))
    assert browser.execute_script("return document.documentElement.scrollWidth") <= PHONE[0]
    now, then = find_all(browser, "figure")
    assert now.rect["x"] == then.rect["x"] and now.rect["y"] < then.rect["y"]
    assert faults(browser) == []
    shoot(browser, f"serve_live_phone_{scheme}")
