"""Where the bytes of a training step go: measured on the device. All figures come as one type, the Ledger."""
