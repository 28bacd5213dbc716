"""Where the bytes of a training step go: measured on the device, traced without data, or estimated at once. All figures
come as one type, the Ledger."""
