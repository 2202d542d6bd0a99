/* The page at "/": dashboard.html as bytes, made by cmake/embed.cmake. */
#ifndef CABE_SERVE_DASHBOARD_H
#define CABE_SERVE_DASHBOARD_H

#include <stddef.h>

extern const unsigned char cabe_dashboard_page[];
extern const size_t cabe_dashboard_page_bytes;

#endif
