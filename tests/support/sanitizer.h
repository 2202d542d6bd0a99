/* Whether this test is built with a sanitizer whose own memory makes limits and measurements meaningless. */
#ifndef CABE_TESTS_SANITIZER_H
#define CABE_TESTS_SANITIZER_H

#define TEST_SANITIZED 0
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#undef TEST_SANITIZED
#define TEST_SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#undef TEST_SANITIZED
#define TEST_SANITIZED 1
#endif
#endif

#endif
