"""Results in the forms that other tools take, each in a module of its own that imports its library only when it is used."""
