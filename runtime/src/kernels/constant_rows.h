/* CALL(count) with the number of rows as a constant, so that what is inlined there keeps its sums in registers. */
#ifndef FORERUN_CONSTANT_ROWS_H
#define FORERUN_CONSTANT_ROWS_H

#define FR_ROWS_CASE(count, CALL)                                                                                      \
    case count:                                                                                                        \
        CALL(count);                                                                                                   \
        break;

#define FR_ROWS_1_TO_4(CALL) FR_ROWS_CASE(1, CALL) FR_ROWS_CASE(2, CALL) FR_ROWS_CASE(3, CALL) FR_ROWS_CASE(4, CALL)

#define FR_ROWS_5_TO_16(CALL)                                                                                          \
    FR_ROWS_CASE(5, CALL)                                                                                              \
    FR_ROWS_CASE(6, CALL)                                                                                              \
    FR_ROWS_CASE(7, CALL)                                                                                              \
    FR_ROWS_CASE(8, CALL)                                                                                              \
    FR_ROWS_CASE(9, CALL)                                                                                              \
    FR_ROWS_CASE(10, CALL)                                                                                             \
    FR_ROWS_CASE(11, CALL)                                                                                             \
    FR_ROWS_CASE(12, CALL)                                                                                             \
    FR_ROWS_CASE(13, CALL)                                                                                             \
    FR_ROWS_CASE(14, CALL)                                                                                             \
    FR_ROWS_CASE(15, CALL)                                                                                             \
    FR_ROWS_CASE(16, CALL)

#define FR_UP_TO_4_ROWS(count, CALL)                                                                                   \
    switch (count) { FR_ROWS_1_TO_4(CALL) }

#define FR_UP_TO_16_ROWS(count, CALL)                                                                                  \
    switch (count) { FR_ROWS_1_TO_4(CALL) FR_ROWS_5_TO_16(CALL) }

#endif
