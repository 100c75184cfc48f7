#include "check.h"
#include "core/philox.h"

using deploykit::philox4x32;
using deploykit::PhiloxWords;

TEST(known_answers) {
  CHECK((philox4x32(0, 0, {0, 0, 0, 0}) == PhiloxWords{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  CHECK((philox4x32(~0u, ~0u, {~0u, ~0u, ~0u, ~0u}) == PhiloxWords{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  CHECK((philox4x32(0xa4093822, 0x299f31d0, {0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}) ==
         PhiloxWords{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(uniform_and_siblings) {
  CHECK(deploykit::philox_uniform(0, 0) == 0.3990464708489646);
  CHECK(deploykit::philox_sibling_seed(0, 0) == 0);
  CHECK(deploykit::philox_sibling_seed(0, 1) == 5840119000542174179u);
  CHECK(deploykit::philox_sibling_seed(42, 3) == 12361186915481706501u);
  for (uint32_t position = 0; position < 1000; ++position) {
    const double u = deploykit::philox_uniform(~uint64_t{0}, position);
    CHECK(u > 0 && u < 1);
  }
}

CHECK_MAIN
