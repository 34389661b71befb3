"""What notebooks are built from: criteria, steps, a session that judges them; importing this loads nothing heavy.

    from podcastqa.workbook import step1

criteria → verdict → a dated report and its JSON twin → the gate to the next step.
"""
