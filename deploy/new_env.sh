#!/bin/sh
# Prints a .env with fresh secrets for a site with the given name: sh deploy/new_env.sh chat.example.com > .env
set -eu
name=${1:?the name of the site, such as chat.example.com}
secret() { head -c 1000 /dev/urandom | LC_ALL=C tr -dc 'A-Za-z0-9' | head -c "$1"; }
redis=$(secret 40)
cat <<END
# Everything else that can be set is in .env.example.
SITE_URL=https://$name
ALLOWED_HOSTS=$name
TRUSTED_PROXIES=1
SECRET_KEY=$(secret 60)
JWT_SECRET_KEY=$(secret 60)

# The stores of a plain server; compose.yaml has its own addresses, with the passwords below. Without MONGODB_URI the
# history is in PostgreSQL.
DATABASE_URL=postgres:///tertulia?host=/run/postgresql
MONGODB_URI=mongodb://127.0.0.1:27017/
REDIS_URL=redis://:$redis@127.0.0.1:6379/0
REDIS_PASSWORD=$redis
POSTGRES_PASSWORD=$(secret 40)
MONGO_PASSWORD=$(secret 40)

# Your mail server, without which nobody can sign up: smtp+tls://user:password@mail.example.com:587
EMAIL_URL=
# Your providers' keys: OPENAI_API_KEY, ANTHROPIC_API_KEY, GEMINI_API_KEY, DEEPSEEK_API_KEY.
END
