// The codec with one lane against the oracle: every code, every midpoint and its neighbours, every
// bfloat16, and a few million floats.
#include <cmath>
#include <cstdint>
#include <random>
#include <vector>

#include "cc/codec/half.h"
#include "cc/codec/random.h"
#include "cc/codec/scale.h"
#include "cc/cpu/parallel.h"
#include "cc/test/check.h"
#include "cc/test/oracle.h"

namespace jaxfp4 {
namespace {

using V = ScalarLanes;

template <class E>
uint32_t NearestCode(float x) {
  const uint32_t bits = V::Bits(x);
  return Code<E, V>(RoundNearest<E, V>(bits & ~kSignBit), bits);
}

bool Same(float a, float b) { return V::Bits(a) == V::Bits(b) || (std::isnan(a) && std::isnan(b)); }

// Floats at which a rounding to t could go wrong.
std::vector<float> Inputs(const oracle::Type& t, std::mt19937* random) {
  std::vector<float> inputs = {0.0f, INFINITY, NAN, 3.4028235e38f, 1.1754944e-38f, 1e-40f};
  for (int code = 0; code <= t.max_code; ++code) {
    const double value = oracle::Magnitude(t, code);
    const double next = oracle::Magnitude(t, code + 1);
    for (const double at : {value, (value + next) / 2, next}) {
      const auto x = static_cast<float>(at);
      inputs.insert(inputs.end(), {x, std::nextafterf(x, 0.0f), std::nextafterf(x, INFINITY)});
    }
  }
  for (uint32_t high = 0; high < 1u << 15; ++high) inputs.push_back(V::Float(high << 16));
  for (int i = 0; i < 100000; ++i) inputs.push_back(V::Float((*random)() & 0x7fffffff));
  const double largest = oracle::Magnitude(t, t.max_code);
  std::uniform_real_distribution<float> uniform(0.0f, static_cast<float>(largest * 1.1));
  for (int i = 0; i < 100000; ++i) inputs.push_back(uniform(*random));
  const size_t count = inputs.size();
  for (size_t i = 0; i < count; ++i) inputs.push_back(-inputs[i]);
  return inputs;
}

template <class E>
void TestElement(Element element) {
  std::mt19937 random(7);
  const oracle::Type t = oracle::TypeOf(element);
  const int type = static_cast<int>(element);
  for (int code = 0; code < 1 << t.bits; ++code) {
    const float value = Decode<E, V>(static_cast<uint32_t>(code));
    Check(Same(value, oracle::Value(t, code)), "decode of type %d code %d: %g", type, code, value);
  }
  for (const float x : Inputs(t, &random)) {
    if (!Selected()) continue;
    const uint32_t bits = V::Bits(x), magnitude = bits & ~kSignBit;
    const int expected = oracle::Encode(t, x);
    const uint32_t code = NearestCode<E>(x);
    Check(static_cast<int>(code) == expected, "type %d, nearest of %a: code %u, expected %d", type,
          x, code, expected);
    const float value = Value<E, V>(RoundNearest<E, V>(magnitude), bits);
    Check(Same(value, oracle::Value(t, expected)), "type %d, value nearest to %a: %a", type, x,
          value);
    const uint32_t r8 = random() & 255, r24 = random() & 0xffffff;
    const Rounded<V> q8 = RoundStochastic8<E, V>(magnitude, r8);
    const int expected8 = oracle::Encode(t, x, Rounding::kStochastic8, r8);
    Check(static_cast<int>(Code<E, V>(q8, bits)) == expected8, "type %d, stochastic8 of %a with %u",
          type, x, r8);
    Check(Same(Value<E, V>(q8, bits), oracle::Value(t, expected8)),
          "type %d, stochastic8 value of %a with %u", type, x, r8);
    const Rounded<V> q24 = RoundStochastic24<E, V>(magnitude, r24);
    const int expected24 = oracle::Encode(t, x, Rounding::kStochastic24, r24);
    Check(static_cast<int>(Code<E, V>(q24, bits)) == expected24,
          "type %d, stochastic24 of %a with %u", type, x, r24);
  }
}

// All 256 random bytes: P(up) is exactly floor(256 fraction) / 256.
void TestStochasticProbability() {
  for (int i = 0; i <= 4096; ++i) {
    const float x = 2.0f + static_cast<float>(i) / 4096;  // between the neighbours 2 and 3
    int ups = 0;
    for (uint32_t r = 0; r < 256; ++r) {
      ups += Code<E2M1, V>(RoundStochastic8<E2M1, V>(V::Bits(x), r), V::Bits(x)) == 5;
    }
    Check(ups == i / 16, "stochastic8 of %g goes up for %d of 256", x, ups);
  }
}

// The short cut for E2M1 against the general way: every 61st float but NaN.
void TestE2M1ShortCut() {
  for (uint64_t b = 0; b < uint64_t{1} << 32; b += 61) {
    const auto bits = static_cast<uint32_t>(b);
    if ((bits & ~kSignBit) > kInfinity || !Selected()) continue;
    const float x = V::Float(bits);
    Check(E2M1CodeNearest<V>(x) == NearestCode<E2M1>(x), "short cut for %a", x);
  }
}

void TestHalves() {
  std::mt19937 random(3);
  for (uint32_t h = 0; h < 1u << 16; ++h) {
    const bool nan = (h & 0x7fff) > 0x7c00;
    const float x = FromF16<V>(h);
    const int field = (h >> 10) & 31, fraction = h & 1023;
    const double magnitude = field == 31 ? (fraction ? NAN : INFINITY)
                             : field == 0 ? std::ldexp(fraction, -24)
                                          : std::ldexp(1024 + fraction, field - 25);
    const auto expected = static_cast<float>(h & 0x8000 ? -magnitude : magnitude);
    Check(Same(x, expected), "float16 %04x is %a", h, x);
    if (!nan) Check(ToF16<V>(x) == h, "float16 %04x there and back", h);
  }
  for (int i = 0; i < 2000000; ++i) {
    if (!Selected()) continue;
    const float x = V::Float(random());
    if (std::isnan(x)) {
      Check((ToBF16<V>(x) & 0x7fff) > 0x7f80 && (ToF16<V>(x) & 0x7fff) > 0x7c00, "NaN stays");
      continue;
    }
    if ((V::Bits(x) & kInfinity) == 0) continue;  // kernels never produce a subnormal
    Check(ToBF16<V>(x) == oracle::NarrowedBits(Dtype::kBF16, x), "bfloat16 of %a", x);
    Check(ToF16<V>(x) == oracle::NarrowedBits(Dtype::kF16, x), "float16 of %a", x);
  }
  for (int i = 0; i < 2000000; ++i) {
    if (!Selected()) continue;
    const float x = V::Float((random() % (48u << 23)) + (100u << 23));  // float16's range
    Check(ToF16<V>(x) == oracle::NarrowedBits(Dtype::kF16, x), "float16 of %a", x);
  }
}

template <class E>
void TestPowerScale(Element element) {
  std::mt19937 random(5);
  const oracle::Type t = oracle::TypeOf(element);
  for (const ScaleRule rule :
       {ScaleRule::kFloor, ScaleRule::kEven, ScaleRule::kRceil, ScaleRule::kCeil}) {
    const auto check = [&](uint32_t bits) {
      if (!Selected()) return;
      const uint32_t byte = ScalePower<V>(bits, PowerRuleOf<E>(rule)).stored;
      const uint32_t expected = oracle::PowerScale(t, rule, V::Float(bits)).stored;
      Check(byte == expected, "e8m0 rule %d of amax %a for type %d: %u, expected %u",
            static_cast<int>(rule), V::Float(bits), static_cast<int>(element), byte, expected);
    };
    for (uint32_t exponent = 0; exponent < 256; ++exponent) {
      for (uint32_t sixteenth = 0; sixteenth <= 16; ++sixteenth) {  // and beyond, into the next
        const uint32_t bits = (exponent << 23) + (sixteenth << 19);
        for (int d = -2; d <= 2; ++d) {
          const uint32_t near = bits + static_cast<uint32_t>(d);
          if (near < kSignBit) check(near);
        }
      }
    }
    for (int i = 0; i < 100000; ++i) check(random() & 0x7fffffff);
  }
}

void TestE4M3Scale() {
  std::mt19937 random(9);
  const oracle::Type t = oracle::TypeOf(Element::kE4M3);
  for (const float x : Inputs(t, &random)) {
    if (!Selected()) continue;
    if (std::signbit(x) || !(x <= 448)) continue;
    Check(static_cast<int>(E4M3Up<V>(x)) == oracle::E4M3Up(x), "e4m3 not below %a", x);
    Check(static_cast<int>(E4M3Nearest<V>(x)) == oracle::Encode(t, x), "e4m3 nearest to %a", x);
  }
}

void TestRandom() {
  std::mt19937 random(11);
  Check(RandomBits<uint32_t>(0, 0, 0) == 0, "random bits of zeros");
  for (int i = 0; i < 100000; ++i) {
    const uint32_t s0 = random(), s1 = random(), c = random();
    Check(Random8<uint32_t>(s0, s1, c) == oracle::Random(Rounding::kStochastic8, s0, s1, c) &&
              Random24<uint32_t>(s0, s1, c) == oracle::Random(Rounding::kStochastic24, s0, s1, c),
          "random bits of %u %u %u", s0, s1, c);
  }
}

__attribute__((noinline)) void TestAll() {
  TestElement<E2M1>(Element::kE2M1);
  TestElement<E2M3>(Element::kE2M3);
  TestElement<E3M2>(Element::kE3M2);
  TestElement<E4M3>(Element::kE4M3);
  TestElement<E5M2>(Element::kE5M2);
  TestStochasticProbability();
  TestE2M1ShortCut();
  TestHalves();
  TestPowerScale<E2M1>(Element::kE2M1);
  TestPowerScale<E2M3>(Element::kE2M3);
  TestPowerScale<E3M2>(Element::kE3M2);
  TestPowerScale<E4M3>(Element::kE4M3);
  TestPowerScale<E5M2>(Element::kE5M2);
  TestE4M3Scale();
  TestRandom();
}

}  // namespace
}  // namespace jaxfp4

int main() {
  const jaxfp4::ScopedFlushToZero flush;
  jaxfp4::TestAll();
  return jaxfp4::Finish("codec_test");
}
