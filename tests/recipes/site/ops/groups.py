def names_of(user):
    names = list(user.groups.values_list("name", flat=True))
    return [*names, "staff"] if user.is_staff else names
