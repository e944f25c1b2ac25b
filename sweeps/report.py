def write(study, folder): return []
def answer(study, folder): return []
