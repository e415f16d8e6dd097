"""The models that `hornfels bench` measures, and the engines that run them side by side."""
