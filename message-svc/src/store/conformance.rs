//! What every store of logs and directories does. A backend runs all of it by
//! `conformance::log_suite!` and `conformance::directory_suite!`, each with a
//! function that yields a fresh store and what keeps it alive.

pub(crate) mod directory;
pub(crate) mod log;

macro_rules! suite {
    ($cases:ident, $fresh:path, $($case:ident),+ $(,)?) => {
        $(
            #[tokio::test(flavor = "multi_thread")]
            async fn $case() {
                let (store, _keep) = $fresh().await;
                $crate::store::conformance::$cases::$case(store).await;
            }
        )+
    };
}
pub(crate) use suite;

macro_rules! log_suite {
    ($fresh:path) => {
        $crate::store::conformance::suite!(
            log,
            $fresh,
            a_topic_begins_without_a_segment,
            a_segment_is_opened_once_whoever_asks,
            numbers_of_segments_are_unique_and_ascend_within_a_topic,
            an_entry_is_read_back_as_it_was_appended,
            an_append_at_another_head_is_stale_and_writes_nothing,
            of_racing_appends_at_one_head_one_is_applied,
            racing_writers_leave_no_hole_and_no_double,
            a_read_ends_where_the_entries_end,
            a_full_segment_is_followed_by_one_with_its_own_capacity,
            an_entry_is_found_by_its_id,
            heads_come_in_the_order_asked,
            the_largest_batch_is_appended_at_once,
            full_segments_come_newest_first_with_their_filters,
            topics_do_not_mix,
        );
    };
}
pub(crate) use log_suite;

macro_rules! directory_suite {
    ($fresh:path) => {
        $crate::store::conformance::suite!(
            directory,
            $fresh,
            rooms_are_made_read_and_listed,
            rooms_are_listed_however_many,
            what_is_seeded_twice_stays_as_it_was,
            of_racing_seeds_one_is_made,
            topics_are_made_read_and_changed,
            racing_changes_of_a_topic_are_all_made,
            topics_are_listed_by_room,
            default_topics_are_known,
            a_user_joins_and_leaves_once,
            racing_joins_make_one_membership,
            memberships_and_members_come_in_pages,
            a_user_has_at_most_so_many_memberships,
            a_user_is_enrolled_once_and_keeps_what_he_joined_before,
            versions_come_in_the_order_asked,
        );
    };
}
pub(crate) use directory_suite;
