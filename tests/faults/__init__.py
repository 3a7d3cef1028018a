"""A proxy that makes a real server misbehave on purpose, and a load to see what that does to its clients."""
