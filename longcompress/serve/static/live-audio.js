// Gives the samples of a microphone to the page, a fifth of a second at a time.
class Samples extends AudioWorkletProcessor {
  constructor() {
    super();
    this.part = new Float32Array(sampleRate / 5);
    this.at = 0;
  }

  process([[channel]]) {
    for (const sample of channel || []) {
      this.part[this.at++] = sample;
      if (this.at < this.part.length) continue;
      this.port.postMessage(this.part.slice());
      this.at = 0;
    }
    return true;
  }
}
registerProcessor("samples", Samples);
