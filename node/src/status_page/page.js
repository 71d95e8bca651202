// Fetches the changing part of the page again and again, while somebody looks.
"use strict";

const INTERVAL_MS = 2000;
const TIMEOUT_MS = 5000;

const live = document.getElementById("live");
const connection = document.getElementById("connection");

function say(text, isLost) {
  if (connection.textContent !== text) {
    connection.textContent = text;
  }
  connection.classList.toggle("lost", isLost);
}

// What a person has opened, scrolled or reached stays so.
function replace(html) {
  const open = [...live.querySelectorAll("details[open]")].map((details) => details.id);
  const scrolled = [...live.querySelectorAll("[id][tabindex]")].map((element) => [element.id, element.scrollTop]);
  const focused = live.contains(document.activeElement) && document.activeElement.closest("[id]");
  live.innerHTML = html;
  for (const id of open) {
    document.getElementById(id)?.setAttribute("open", "");
  }
  for (const [id, top] of scrolled) {
    const element = document.getElementById(id);
    if (element) {
      element.scrollTop = top;
    }
  }
  if (focused && focused !== live) {
    const again = document.getElementById(focused.id);
    (again?.querySelector("summary") ?? again)?.focus({ preventScroll: true });
  }
}

async function refresh() {
  if (!document.hidden && !window.getSelection()?.toString()) {
    try {
      const answer = await fetch("/live", { cache: "no-store", signal: AbortSignal.timeout(TIMEOUT_MS) });
      if (!answer.ok) {
        throw new Error(`status ${answer.status}`);
      }
      replace(await answer.text());
      say("live", false);
    } catch {
      say("no answer: what you see is old", true);
    }
  }
  setTimeout(refresh, INTERVAL_MS);
}

setTimeout(refresh, INTERVAL_MS);
