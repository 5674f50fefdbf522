// Keeps a page fresh: asks for it again and changes what is different. Every page is whole without it.
"use strict";

(() => {
  const EVERY = 2000;
  const PATIENCE = 10000;
  const main = document.querySelector("main[data-live]");
  const panel = document.querySelector(".live");
  if (!main || !panel) return;
  const said = panel.querySelector("[data-said]");
  const button = panel.querySelector("button");
  let stopped = false;
  let timer;
  let acting = false;

  const show = (state, text) => {
    panel.dataset.state = state;
    if (said.textContent !== text) said.textContent = text;
  };

  // Who types must not lose what is typed, and who selects text wants to copy it.
  const busy = () => {
    const at = document.activeElement;
    const typing = at && main.contains(at) && at.matches("input:not([type=hidden]), select, textarea");
    const selection = document.getSelection();
    return acting || typing || (selection && !selection.isCollapsed && main.contains(selection.anchorNode));
  };

  // Changes `now` into `next`, node by node, so that focus, scroll positions and open parts stay.
  const become = (now, next) => {
    if (now.isEqualNode(next)) return;
    if (now.nodeType !== next.nodeType || now.nodeName !== next.nodeName || now.id !== next.id) {
      now.replaceWith(next.cloneNode(true));
      return;
    }
    if (now.nodeType !== Node.ELEMENT_NODE) {
      now.nodeValue = next.nodeValue;
      return;
    }
    for (const { name } of [...now.attributes]) {
      if (!next.hasAttribute(name) && !(now.nodeName === "DETAILS" && name === "open")) now.removeAttribute(name);
    }
    for (const { name, value } of next.attributes) {
      if (now.getAttribute(name) !== value) now.setAttribute(name, value);
    }
    const old = [...now.childNodes];
    const fresh = [...next.childNodes];
    // Rows that carry a key are told apart by it: one that is gone must not hand its focus to the next one.
    const keys = new Map(old.filter((node) => node.dataset?.key).map((node) => [node.dataset.key, node]));
    let place = now.firstChild;
    const used = new Set();
    for (const node of fresh) {
      const key = node.dataset?.key;
      let match = key ? keys.get(key) : place;
      while (!key && match && (used.has(match) || match.dataset?.key)) match = match.nextSibling;
      if (!match || used.has(match)) {
        const made = node.cloneNode(true);
        now.insertBefore(made, place);
        used.add(made);
        continue;
      }
      if (match !== place) now.insertBefore(match, place);
      const after = match.nextSibling;
      become(match, node);
      const current = after ? after.previousSibling : now.lastChild;
      used.add(current);
      place = after;
    }
    for (const node of [...now.childNodes]) if (!used.has(node)) node.remove();
  };

  const ask = async () => {
    if (stopped || document.hidden) return;
    if (busy()) {
      show("off", "Waiting while you type or select");
      plan();
      return;
    }
    try {
      const answer = await fetch(location.href, { redirect: "manual", signal: AbortSignal.timeout(PATIENCE) });
      const text = await answer.text();
      if (busy() || stopped) return plan();
      if (answer.type === "opaqueredirect" || answer.status === 401 || answer.status === 403) {
        show("away", "You may not see this any more. Load the page again.");
        return;
      }
      const page = new DOMParser().parseFromString(text, "text/html");
      const fresh = page.querySelector("main");
      if (answer.status < 500 && fresh) {
        become(main, fresh);
        show("on", `Live, as of ${new Date().toLocaleTimeString()}`);
        if (!fresh.hasAttribute("data-live")) {
          show("off", "This page does not change any more");
          return;
        }
      } else {
        show("away", "The dashboard answers with an error; trying again");
      }
    } catch {
      show("away", "The dashboard does not answer; trying again");
    }
    plan();
  };

  const plan = () => {
    clearTimeout(timer);
    if (!stopped && !document.hidden) timer = setTimeout(ask, EVERY);
  };

  button.addEventListener("click", () => {
    stopped = !stopped;
    button.textContent = stopped ? "Resume" : "Pause";
    button.setAttribute("aria-label", stopped ? "Resume live updates" : "Pause live updates");
    if (stopped) show("off", "Updates are paused");
    else ask();
  });
  // A button that is being pressed must stay where it is, and once is enough.
  document.addEventListener("submit", () => { acting = true; });
  window.addEventListener("pageshow", () => { acting = false; plan(); });
  document.addEventListener("visibilitychange", () => (document.hidden ? clearTimeout(timer) : ask()));
  panel.hidden = false;
  show("on", "Live");
  plan();
})();
