"""Nodes as the server knows them: enrolment, states, the tasks they are ordered, what they tell."""
