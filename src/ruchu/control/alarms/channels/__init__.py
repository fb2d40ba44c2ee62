"""Ways to reach people: mail, webhooks, messages to phones, robots of chat systems."""
