"""steerbake: compiles a steering program into models that anyone loads without this library."""
