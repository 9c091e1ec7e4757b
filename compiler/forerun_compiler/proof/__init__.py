"""What a bundle is worth: losslessness proven, and how far quantization moved its target."""
