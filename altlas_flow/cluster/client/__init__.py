"""On the client: requests become envelopes, and answers come back."""
