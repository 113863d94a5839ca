// Browsers start no worker from a page on disk: there, the search's script runs in a hidden frame.
if (location.protocol === "file:") {
  window.Worker = class {
    constructor(url) {
      this.frame = document.createElement("iframe");
      this.frame.hidden = true;
      document.body.append(this.frame);
      this.inside = this.frame.contentWindow;
      this.inside.postMessage = (data) => this.hand(data, (event) => this.onmessage?.(event));
      const script = this.inside.document.createElement("script");
      script.src = url;
      this.ready = new Promise((loaded) => (script.onload = loaded));
      this.inside.document.body.append(script);
    }

    // As between threads: a copy, and never at once.
    hand(data, take) {
      const copy = structuredClone(data);
      setTimeout(() => take(new MessageEvent("message", { data: copy })));
    }

    postMessage(data) {
      this.ready.then(() => this.hand(data, (event) => this.inside.onmessage(event)));
    }

    terminate() {
      this.frame.remove();
    }
  };
}
