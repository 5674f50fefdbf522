"""A board of questions and answers on SQLModel, whose listener keeps the state of a question."""
