/* Pages that are opened as files may start no worker. The search then runs in a hidden frame that speaks as one. */
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      const frame = document.createElement("iframe");
      frame.hidden = true;
      document.body.appendChild(frame);
      const inner = frame.contentWindow, page = frame.contentDocument;
      const load = (address) => new Promise((done, failed) => {
        const script = page.createElement("script");
        script.src = address;
        script.onload = done;
        script.onerror = failed;
        page.body.appendChild(script);
      });
      const say = (name, target, data) => target.dispatchEvent(new inner.MessageEvent(name, { data }));
      page.open();
      page.write("<!doctype html><body></body>");
      page.close();
      const base = new URL(url, location.href);
      inner.importScripts = (...addresses) => Promise.all(addresses.map((address) => load(new URL(address, base))));
      inner.postMessage = (data) => {
        const event = new MessageEvent("message", { data });
        this.dispatchEvent(event);
        if (this.onmessage) this.onmessage(event);
      };
      const waiting = [];
      this.postMessage = (data) => waiting.push(data);
      this.terminate = () => frame.remove();
      load(base).then(() => {
        this.postMessage = (data) => say("message", inner, data);
        waiting.forEach(this.postMessage);
      });
    }
  };
}
