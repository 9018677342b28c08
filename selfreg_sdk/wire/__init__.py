"""Below the client: connections, streams, replies and what servers' errors mean."""
