// A browser starts no Worker in a page that was opened from disk. There, this class runs the site's search in a hidden frame.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      this.frame = document.createElement("iframe");
      this.frame.hidden = true;
      document.body.append(this.frame);
      const inner = this.frame.contentWindow;
      this.listener = (event) => {
        if (event.source !== inner) return;
        const copy = new MessageEvent("message", { data: event.data });
        this.dispatchEvent(copy);
        this.onmessage?.(copy);
      };
      addEventListener("message", this.listener);
      inner.document.open();
      inner.document.write('<script>postMessage = (data) => parent.postMessage(data, "*")</script>');
      inner.document.write(`<script src="${url}"></script>`);
      this.loaded = new Promise((resolve) => inner.addEventListener("load", resolve));
      inner.document.close();
    }

    postMessage(data) {
      const inner = this.frame.contentWindow;
      this.loaded.then(() => inner.dispatchEvent(new MessageEvent("message", { data: structuredClone(data) })));
    }

    terminate() {
      removeEventListener("message", this.listener);
      this.frame.remove();
    }
  };
}
