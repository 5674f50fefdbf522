"""From a model to the trigger that captures its changes: model -> TriggerSpec -> DDL."""
