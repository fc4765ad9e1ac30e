//! What a person sees of an answer.

use serde_json::json;

use super::*;

fn message(descriptors: &Descriptors, method: &str, content: serde_json::Value) -> DynamicMessage {
    let descriptor = descriptors.method(method).unwrap().output();
    DynamicMessage::deserialize(descriptor, content).unwrap()
}

#[test]
fn a_list_has_the_columns_of_its_proto() {
    let descriptors = Descriptors::load();
    let answer = message(
        &descriptors,
        "mooring.v1.UserService.ListUsers",
        json!({"users": [
            {"name": "users/anna", "displayName": "Anna\u{1b}[2J\nBell", "state": "USER_STATE_ENABLED", "createTime": "2030-01-01T00:00:00.123Z"},
            {"name": "users/b"},
        ]}),
    );
    let (field, rows) = rows(&answer).unwrap();
    let Kind::Message(item) = field.kind() else {
        panic!("a list of messages")
    };
    let text = table(&descriptors.columns_of(&item), &rows);
    assert_eq!(
        text,
        "NAME        DISPLAY_NAME   STATE    CREATE_TIME\n\
         users/anna  Anna\u{fffd}[2J Bell  ENABLED  2030-01-01T00:00:00Z\n\
         users/b\n"
    );
}

#[test]
fn an_answer_that_is_no_list_is_one_row() {
    let descriptors = Descriptors::load();
    let answer = message(
        &descriptors,
        "mooring.v1.UserService.GetUser",
        json!({"name": "users/anna"}),
    );
    assert!(rows(&answer).is_none());
    let bindings = "mooring.v1.AccessService.ListAccessBindings";
    assert!(rows(&message(&descriptors, bindings, json!({"etag": "e"}))).is_some());
    // A resource that holds a list of its own is still one row.
    let connector = message(
        &descriptors,
        "mooring.v1.ConnectorService.GetConnector",
        json!({"name": "n"}),
    );
    assert!(rows(&connector).is_none());
}

#[test]
fn an_answer_without_columns_is_told_line_by_line() {
    let descriptors = Descriptors::load();
    let answer = message(
        &descriptors,
        "mooring.v1.AccessService.TestPermissions",
        json!({"permissions": ["a.b", "c.d"]}),
    );
    assert_eq!(lines(&answer), "permissions: a.b,c.d\n");
}

#[test]
fn json_has_every_field_and_no_secret() {
    let descriptors = Descriptors::load();
    let mut answer = message(
        &descriptors,
        "mooring.v1.HostService.CreateJoinToken",
        json!({"name": "joinTokens/t", "joinString": "planted"}),
    );
    hide_secrets(&descriptors, &mut answer);
    let text = json(&answer).unwrap();
    assert!(!text.contains("planted"));
    let read: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(read["usesLeft"], 0);
    assert!(yaml(&answer).unwrap().contains("name: joinTokens/t"));

    let method = "mooring.v1.HostService.ListJoinTokens";
    let mut list = message(
        &descriptors,
        method,
        json!({"joinTokens": [{"joinString": "planted"}]}),
    );
    hide_secrets(&descriptors, &mut list);
    assert!(!json(&list).unwrap().contains("planted"));
}
