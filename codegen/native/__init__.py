"""Machine code in this process: loading it, running it, and the threads that it runs on. No TVM."""
