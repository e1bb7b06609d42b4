"""Which tokens an encoder sees and which are predicted: generators, on the device and exact in number."""
